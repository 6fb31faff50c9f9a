"""Who may ask: a token where one is set, names of this server only, and no page but its own."""

import dataclasses
import hmac
import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from aiohttp import web

BEARER, SUBPROTOCOL = "Bearer ", "token."  # a page cannot set headers of a WebSocket: it names a subprotocol instead
GUARDED = ("/v1/", "/metrics")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,256}")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True)
class Access:
    """The rules. `names` are what this server is called by, besides the local names."""

    host: str
    token: str | None = dataclasses.field(default=None, repr=False)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ValueError("the token is to have 16 to 256 characters of A-Z, a-z, 0-9, - and _")
        if self.token is None and not is_loopback(self.host):
            raise ValueError(f"--host {self.host} can be reached from other machines: give it a --token-file")

    @property
    def known_names(self) -> frozenset[str]:
        """Hosts by which a browser may have found this server; any other is a name that was bound to its address."""
        return frozenset({*_LOCAL_NAMES, self.host, *self.names})

    def check(self, request: web.Request) -> None:
        """Let a request pass.

        Raises:
            web.HTTPException: 403 for a host or an origin that is not this server, 401 without the token.
        """
        host = request.headers.get("Host", "")
        if _parts(f"//{host}").hostname not in self.known_names:
            raise web.HTTPForbidden(text="This server does not go by that name (Host). Start it with --name.")
        origin = request.headers.get("Origin")
        if origin is not None and _parts(origin).netloc.lower() != host.lower():
            raise web.HTTPForbidden(text="Another page's scripts may not use this server (Origin).")
        if self.token is not None and request.path.startswith(GUARDED) and not self._has_token(request):
            raise web.HTTPUnauthorized(text="A token is needed.", headers={"WWW-Authenticate": "Bearer"})

    def _has_token(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "")
        tokens = [given.removeprefix(BEARER)] if given.startswith(BEARER) else []
        protocols = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        tokens += [p.strip().removeprefix(SUBPROTOCOL) for p in protocols if p.strip().startswith(SUBPROTOCOL)]
        expected = (self.token or "").encode()
        return any(hmac.compare_digest(token.encode(errors="replace"), expected) for token in tokens)


def _parts(address: str) -> SplitResult:
    """The parts of an address; none when it is no address."""
    try:
        return urlsplit(address)
    except ValueError:  # brackets that do not close
        return urlsplit("")
