"""The live server: the page, the conversations, and what operators ask for.

GET  /                      the page
GET  /v1/config             sizes, rates, limits
GET  /v1/ws                 a conversation (WebSocket)
POST /v1/rtc                a conversation (WebRTC)
DELETE /v1/sessions/{id}    end one
GET  /healthz /readyz       is it there; is there an agent, and room
GET  /metrics               for Prometheus
"""

import asyncio
import dataclasses
import functools
import os
import signal
import ssl
import sys
import webbrowser
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from aiohttp import web

from wanstreamer_jax.serving import wire
from wanstreamer_jax.serving.access import Access
from wanstreamer_jax.serving.idle import Idle
from wanstreamer_jax.serving.log import logger, say
from wanstreamer_jax.serving.metrics import Metrics
from wanstreamer_jax.serving.pictures import LARGEST_SIDE
from wanstreamer_jax.serving.service import Opened, Rules, Service
from wanstreamer_jax.serving.webrtc import WebRtc, has_webrtc
from wanstreamer_jax.serving.websocket import serve_websocket
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, UNIT_MS, VIDEO_FPS

DRAIN_S = 8.0  # for goodbyes and recordings
MOST_BODY_BYTES = 1 << 16
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Permissions-Policy": "camera=(self), microphone=(self)",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

IDLE = web.AppKey("idle", Idle)
LINGER_S = 1.0  # so long the rest of a body is read that was refused, for its sender to see why
CONNECTIONS: dict[str, Any] = {"access_log": None, "lingering_time": LINGER_S}

OpenAll = Callable[[Callable[[str], None]], Opened]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclasses.dataclass(frozen=True)
class Address:
    """Where to listen, and with which certificate."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    browser: bool = False  # opened there, where there is a desktop

    @property
    def url(self) -> str:
        """What to type into a browser."""
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(self.host, self.host)  # noqa: S104
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"


def make_app(service: Service, access: Access) -> web.Application:
    """The server's routes."""
    idle = Idle()
    app = web.Application(middlewares=[idle.answer, _guard(access)], client_max_size=MOST_BODY_BYTES)
    app[IDLE] = idle
    page = _page()
    app.router.add_get("/", functools.partial(_file, page, "index.html"))
    app.router.add_get("/page/{name}", functools.partial(_file, page, None))
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", functools.partial(_readyz, service))
    app.router.add_get("/metrics", functools.partial(_metrics, service))
    app.router.add_get("/v1/config", functools.partial(_config, service))
    app.router.add_get("/v1/ws", functools.partial(serve_websocket, service=service))
    rtc = WebRtc(service)
    app.router.add_post("/v1/rtc", rtc.post)
    app.on_shutdown.append(rtc.close)
    app.router.add_delete("/v1/sessions/{id}", functools.partial(_delete, service))
    return app


def run_server(address: Address, access: Access, rules: Rules, open_all: OpenAll) -> bool:
    """Serve until SIGINT or SIGTERM, then drain; False when that came before the agent was open.

    `open_all` is given what to tell its progress to.

    Raises:
        ValueError: the address cannot be listened on, or the agent cannot be opened.
    """
    return asyncio.run(_run(address, access, rules, open_all))


async def _run(address: Address, access: Access, rules: Rules, open_all: OpenAll) -> bool:
    service = Service(rules, Metrics())
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    app = make_app(service, access)
    runner = web.AppRunner(app, shutdown_timeout=1.0, **CONNECTIONS)
    await runner.setup()
    assert runner.server is not None
    closing_idle = asyncio.create_task(app[IDLE].close_idle(runner.server))
    try:
        await _listen(runner, address)
        opening = asyncio.create_task(service.open(functools.partial(open_all, service.tell)))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({opening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            opening.result()
        await stopped
        return opening.done()
    finally:
        closing_idle.cancel()
        await _drain(service, runner)


async def _listen(runner: web.AppRunner, address: Address) -> None:
    try:
        await web.TCPSite(runner, address.host, address.port, ssl_context=address.tls).start()
    except OSError as error:
        raise ValueError(f"cannot listen on {address.host}, port {address.port}: {error.strerror}") from error
    bound = dataclasses.replace(address, port=runner.addresses[0][1])  # port 0 is any that is free
    print(f"open {bound.url} in a browser (Ctrl-C ends the server)", file=sys.stderr, flush=True)
    if address.browser and _has_desktop():
        await asyncio.to_thread(webbrowser.open, bound.url)


def _has_desktop() -> bool:
    """Without one, a browser would be one of text, and take the terminal."""
    return not sys.platform.startswith("linux") or any(os.environ.get(x) for x in ("DISPLAY", "WAYLAND_DISPLAY"))


async def _drain(service: Service, runner: web.AppRunner) -> None:
    say("stopping", sessions=service.load.n_used)
    try:
        async with asyncio.timeout(DRAIN_S):
            await service.stop()
    except TimeoutError:
        logger.error("not all conversations ended in time", extra={"facts": {"seconds": DRAIN_S}})
    await runner.cleanup()


def _guard(access: Access) -> Any:
    """Every request is checked, every response has the headers that keep browsers safe, no error tells of insides."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            access.check(request)
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    return guard


def _page() -> dict[str, bytes]:
    """The page's files by name: whatever else is asked for, there is no other file to be had."""
    folder = resources.files("wanstreamer_jax.serving") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


async def _file(page: dict[str, bytes], name: str | None, request: web.Request) -> web.Response:
    name = name or request.match_info["name"]
    kind = KINDS.get(PurePosixPath(name).suffix)
    if name not in page or kind is None:
        raise web.HTTPNotFound(text="There is no such page.")
    return web.Response(body=page[name], content_type=kind, charset="utf-8")


async def _healthz(request: web.Request) -> web.Response:
    del request
    return web.Response(text="ok\n")


async def _readyz(service: Service, request: web.Request) -> web.Response:
    del request
    ready, load = service.opened is not None and not service.stopping, service.load
    facts = {"ready": ready, "slots": load.n_slots, "free": load.n_slots - load.n_used}
    if ready:
        return web.json_response(facts)
    doing = "stopping" if service.stopping else service.doing
    return web.json_response({**facts, "doing": doing}, status=503, headers={"Retry-After": "1"})


async def _metrics(service: Service, request: web.Request) -> web.Response:
    del request
    return web.Response(body=service.metrics.page(), headers={"Content-Type": "text/plain; version=0.0.4"})


async def _config(service: Service, request: web.Request) -> web.Response:
    del request
    if service.opened is None:
        raise web.HTTPServiceUnavailable(text=f"The agent is not ready yet: {service.doing}.")
    return web.json_response(_facts(service, service.opened))


def _facts(service: Service, opened: Opened) -> dict[str, Any]:
    """What a client needs to know before a conversation."""
    config = opened.agent.config
    return {
        "protocol": wire.PROTOCOL,
        "agent": config.name,
        "trained": opened.agent.trained,
        "picture": [config.picture.width, config.picture.height],
        "user_picture": [config.vision.picture.width, config.vision.picture.height],
        "video_fps": VIDEO_FPS,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "unit_ms": UNIT_MS,
        "webrtc": has_webrtc(),
        "forms": {"pictures": wire.PICTURE_FORMS, "sound": wire.SOUND_FORMS},  # taken, and given
        "time_limit_s": service.rules.time_limit_s,
        "records": service.rules.recordings is not None,
        "limits": {
            "message_bytes": wire.MOST_MESSAGE_BYTES,
            "text_characters": wire.MOST_TEXT,
            "picture_side": LARGEST_SIDE,
            "voice_samples": min(config.world.n_voice_samples, int(wire.MOST_VOICE_S * SAMPLE_RATE_HZ)),
        },
    }


async def _delete(service: Service, request: web.Request) -> web.Response:
    if not service.end(request.match_info["id"]):
        raise web.HTTPNotFound(text="There is no such session.")
    return web.Response(status=204)


def tls_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """TLS from files in PEM; None without.

    Raises:
        ValueError: one of the two is missing, or they cannot be used.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ValueError("--tls-cert and --tls-key go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"--tls-cert {certificate} with --tls-key {key}: {error}") from error
    return context
