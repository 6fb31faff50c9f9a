"""`POST /v1/rtc`: an offer of WebRTC in, its answer out (as WHIP does it, RFC 9725), and a conversation from then on.

What that needs beyond a server is an extra, so it is imported when the first offer comes.
"""

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING

from aiohttp import web

from wanstreamer_jax.serving.access import is_loopback
from wanstreamer_jax.serving.service import RefusedError, Seat, Service

if TYPE_CHECKING:
    from wanstreamer_jax.serving.rtc.client import RtcClient

SDP = "application/sdp"
READ_WITHIN_S = 5.0
ANSWER_WITHIN_S = 5.0  # looking for names that browsers give to addresses takes one
MISSING = "This server has no WebRTC: pip install 'wanstreamer-jax[webrtc]'. The WebSocket /v1/ws does the same."


def has_webrtc() -> bool:
    """Whether the extra is installed."""
    return find_spec("aiortc") is not None


class WebRtc:
    """The conversations that came by this way."""

    def __init__(self, service: Service):
        self._service = service
        self._served: set[asyncio.Task] = set()

    async def post(self, request: web.Request) -> web.Response:
        """Answer an offer; 503 before anything is set up when there is no slot."""
        if not has_webrtc():
            raise web.HTTPNotImplemented(text=MISSING)
        if request.content_type != SDP:
            raise web.HTTPUnsupportedMediaType(text=f"An offer is {SDP}.")
        offer = await _read(request)

        from wanstreamer_jax.serving.rtc import peer

        try:
            peer.check_offer(offer)
            seat = self._service.admit()
            answer = await self._answer(seat, offer, came_from_here=_came_from_here(request))
        except RefusedError as error:
            raise web.HTTPServiceUnavailable(text=str(error), headers={"Retry-After": str(error.retry_s)}) from error
        except peer.BadOfferError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        where = {"Location": f"/v1/sessions/{seat.id}"}
        return web.Response(status=201, text=answer, content_type=SDP, headers=where)

    async def close(self, app: web.Application) -> None:
        """Wait for what conversations leave when they have ended."""
        del app
        if self._served:
            await asyncio.wait(self._served)

    async def _answer(self, seat: Seat, offer: str, *, came_from_here: bool) -> str:
        """The answer to an offer; from then on the conversation is served."""
        from wanstreamer_jax.serving.rtc import peer
        from wanstreamer_jax.serving.rtc.client import RtcClient

        client = RtcClient(self._service, seat)
        is_answered = False
        try:
            with peer.loopback(only=came_from_here):
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    answer = await client.peer.answer(offer)
            is_answered = True
        except TimeoutError as error:
            raise peer.BadOfferError("This offer takes too long to answer.") from error
        finally:
            task = asyncio.create_task(self._serve(client, seat, is_answered=is_answered))
            self._served.add(task)
            task.add_done_callback(self._served.discard)
        return answer

    async def _serve(self, client: "RtcClient", seat: Seat, *, is_answered: bool) -> None:
        try:
            if is_answered:
                await client.serve()
        finally:
            self._service.leave(seat)
            await client.peer.close()


async def _read(request: web.Request) -> str:
    """A request's body, unless it comes drop by drop."""
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            return (await request.read()).decode(errors="replace")
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"An offer is sent within {READ_WITHIN_S:g} s.") from error


def _came_from_here(request: web.Request) -> bool:
    """Whether a request came to an address that only this machine reaches."""
    name: tuple[str, int] | None = request.transport.get_extra_info("sockname") if request.transport else None
    return name is not None and is_loopback(name[0])
