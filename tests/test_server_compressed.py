"""Conversations in compressed forms: the same units, whatever is lost, damaged, too much or not understood."""

import asyncio
import json
import threading
import time

import numpy as np
import pytest

from tests.codec_cases import absurd_picture, moving, noise, psnr_db, stream
from tests.server_cases import CONFIG, PICTURE, SOUND, connected, heard_from, of_type, packed, served
from wanstreamer_jax.serving import unpacking, websocket
from wanstreamer_jax.serving.codecs import PictureDecoder, PictureEncoder, SoundDecoder, SoundEncoder, StreamPicture
from wanstreamer_jax.serving.conversation import UnitOut
from wanstreamer_jax.serving.inbox import Inbox, Losses
from wanstreamer_jax.serving.outbox import Outbox, Unit
from wanstreamer_jax.serving.packing import KEY_EVERY, Packing
from wanstreamer_jax.serving.unpacking import BURST_S, MOST_WAITING, Replies, Share, Unpacking
from wanstreamer_jax.serving.wire import FormsIn, PacketIn, StreamPictureIn, WireError
from wanstreamer_jax.stream.pace import Counters
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UNIT_MS, VIDEO_FPS

KEY, NEXT, PACKET = 5, 6, 7
COMPRESSED = {"pictures": "h264", "sound": "opus"}
EYES = CONFIG.vision.picture
AGENT = CONFIG.picture


async def speak_compressed(ws, n_frames):
    """Send sound and a moving picture every 40 ms, in time; each tenth is a key frame."""
    pictures, sound = PictureEncoder(EYES), SoundEncoder()
    samples = noise(n_frames / VIDEO_FPS).reshape(n_frames, -1)
    began = time.monotonic()
    for k, frame in enumerate(moving(EYES, n_frames)):
        for time_ms, packet in sound.encode(k * 40.0, samples[k]):
            await ws.send_bytes(packed(PACKET, time_ms, packet))
        picture = pictures.encode(frame, key=k % 10 == 0)
        await ws.send_bytes(packed(KEY if picture.key else NEXT, k * 40.0, picture.data))
        await asyncio.sleep(max(0.0, began + (k + 1) * 0.04 - time.monotonic()))


def is_heard(n_units):
    """Whether a message is a later unit than that, and sound has been heard before it."""
    decoder, loud = SoundDecoder(), []

    def until(message):
        if message["type"] == PACKET:
            loud.append(np.std(decoder.decode(message["time_ms"], message["data"])[1]) > 0.3 * np.std(noise(0.1)))
        return message["type"] == "unit" and message["unit"] >= n_units and sum(loud) >= 20

    return until


def follows(media, first_ms, every_ms):
    """Media follow on each other; of units that were missed, on a busy machine, all are."""
    times_ms = [m["time_ms"] for m in media]
    assert times_ms[0] == first_ms
    steps = np.diff(times_ms)
    assert np.all(steps[np.arange(1, len(times_ms)) % (UNIT_MS / every_ms) != 0] == every_ms)
    assert np.all(steps > 0) and np.all(steps % every_ms == 0)


def test_a_conversation_in_compressed_forms_both_ways():
    async def run():
        async with served() as server, connected(server, COMPRESSED) as ws:
            speaking = asyncio.create_task(speak_compressed(ws, 60 * VIDEO_FPS))
            messages = await heard_from(ws, is_heard(12), 60)
            speaking.cancel()
            return messages

    messages = asyncio.run(run())
    assert not [m for m in messages if m["type"] in ("error", PICTURE, SOUND)]
    pictures = [m for m in messages if m["type"] in (KEY, NEXT)]
    follows(pictures, 0.0, 40.0)
    decoder = PictureDecoder(AGENT)
    shown = [decoder.decode(StreamPicture(m["data"], m["type"] == KEY))[:32, :32] for m in pictures]
    sent = [frame[:32, :32] for frame in moving(EYES, 2 * VIDEO_FPS)]
    assert sum(max(psnr_db(frame, one) for one in sent) > 28 for frame in shown) >= 12
    follows([m for m in messages if m["type"] == PACKET], -6.5, 20.0)


def test_forms_are_told_named_and_changed_at_any_time():
    async def run():
        async with served() as server, connected(server) as ws:
            for wrong in ({"pictures": "av1"}, {"sound": 5}, {"pictures": ["h264"]}):
                await ws.send_str(json.dumps({"type": "start", **wrong}))
                assert (await heard_from(ws, of_type("error")))[-1]["name"] == "bad_field"
            await ws.send_str(json.dumps({"type": "start", "pictures": "h264"}))
            kinds = {m["type"] for m in await heard_from(ws, of_type(NEXT))}
            assert SOUND in kinds and PACKET not in kinds
            await ws.send_str(json.dumps({"type": "forms", "sound": "opus"}))
            await heard_from(ws, of_type(PACKET))
            rest = {m["type"] for m in await heard_from(ws, of_type(PICTURE))}
            assert NEXT not in rest
            await ws.send_str(json.dumps({"type": "forms", "sound": "flac"}))
            return (await heard_from(ws, of_type("error")))[-1]["name"]

    assert asyncio.run(run()) == "bad_field"


def test_a_key_frame_comes_when_it_is_asked_for():
    async def run():
        async with served() as server, connected(server, COMPRESSED) as ws:
            await heard_from(ws, of_type(KEY))
            await heard_from(ws, of_type(NEXT))
            await ws.send_str('{"type": "key_frame"}')
            return (await heard_from(ws, of_type(KEY)))[-1]["time_ms"]

    assert 0 < asyncio.run(run()) < 0.8 * KEY_EVERY * UNIT_MS


def test_wrong_streams_have_names_and_ask_for_a_key_frame():
    first, second = stream(EYES, 2)

    async def run():
        async with served() as server, connected(server, {}) as ws:
            await heard_from(ws, of_type("started"))
            names = []
            for message in (
                packed(KEY, 0.0, absurd_picture(8192)),
                packed(KEY, 0.0, first.data + second.data),
                packed(NEXT, 0.0, b"\xff\xd8\xff\xe0"),
                packed(KEY, 0.0, second.data),
                packed(PACKET, 0.0, bytes([0xFB, 63])),
                packed(PACKET, 0.0, bytes([0xFF]) * 60),
            ):
                await ws.send_bytes(message)
                names.append((await heard_from(ws, of_type("error")))[-1]["name"])
            await ws.send_bytes(packed(NEXT, 100.0, second.data))
            await asyncio.sleep(unpacking.ASK_EVERY_S)
            await ws.send_bytes(packed(NEXT, 140.0, second.data))
            await heard_from(ws, of_type("key_frame"))
            await heard_from(ws, of_type("unit"))
            return names

    assert asyncio.run(run()) == ["bad_picture"] * 4 + ["bad_sound"] * 2


def unit_out(unit):
    frames = np.stack(list(moving(AGENT, FRAMES_PER_UNIT)))
    samples = np.zeros(SAMPLES_PER_UNIT, np.float32)
    return UnitOut(unit, frames, samples, "", 0.0, 1.0, False, Counters(), Losses())


def compressed_packing():
    packing = Packing(AGENT)
    packing.want(FormsIn(**COMPRESSED))
    return packing


def kinds_of(messages):
    return [message[0] for message in messages if isinstance(message, bytes) and message[0] in (KEY, NEXT)]


def test_key_frames_come_at_first_and_every_few_seconds():
    packing = compressed_packing()
    kinds = [kinds_of(packing.pack(unit_out(k))) for k in range(KEY_EVERY + 1)]
    begins = [k for k, of_unit in enumerate(kinds) if of_unit[0] == KEY]
    assert begins[0] == 0 and len(begins) == 2
    assert all(KEY not in of_unit[1:] for of_unit in kinds)


def test_a_client_that_missed_units_gets_nothing_it_cannot_decode():
    async def run():
        outbox, packing = Outbox(), compressed_packing()
        n_missed, taken = 0, []
        for k in range(12):
            outbox.put_unit(Unit(packing.pack(unit_out(k)), [f"unit {k}"]))
            if outbox.n_missed > n_missed:
                n_missed = outbox.n_missed
                packing.want_key()
            if k not in range(2, 7):
                taken += await outbox.take()
        return taken, n_missed

    taken, n_missed = asyncio.run(run())
    assert n_missed > 0
    decoder = PictureDecoder(AGENT)
    shown = 0
    for message in taken:
        if isinstance(message, bytes) and message[0] in (KEY, NEXT):
            shown += decoder.decode(StreamPicture(message[9:], message[0] == KEY)) is not None
            assert not decoder.waits
    assert kinds_of(taken).count(KEY) > 1
    assert shown == len(kinds_of(taken)) > 4 * FRAMES_PER_UNIT
    assert sum(isinstance(message, bytes) and message[0] == PACKET for message in taken) > shown


def test_a_client_that_was_slow_goes_on_with_a_key_frame(monkeypatch):
    send = websocket._WebSocketClient.send

    async def run():
        is_open = asyncio.Event()
        is_open.set()

        async def slow(self, message):
            await is_open.wait()
            await send(self, message)

        monkeypatch.setattr(websocket._WebSocketClient, "send", slow)
        async with served() as server, connected(server, COMPRESSED) as ws:
            messages = await heard_from(ws, lambda m: m["type"] == "unit" and m["unit"] == 2)
            is_open.clear()
            await asyncio.sleep(8 * UNIT_MS / 1000)
            is_open.set()
            messages += await heard_from(ws, lambda m: m["type"] == "unit" and m["unit"] == 14)
            return messages, server.service.metrics.page().decode()

    messages, figures = asyncio.run(run())
    pictures = [m for m in messages if m["type"] in (KEY, NEXT)]
    assert np.max(np.diff([m["time_ms"] for m in pictures])) > UNIT_MS
    decoder = PictureDecoder(AGENT)
    assert all(decoder.decode(StreamPicture(m["data"], m["type"] == KEY)) is not None for m in pictures)
    assert max(m["time_ms"] for m in pictures if m["type"] == KEY) < KEY_EVERY * UNIT_MS
    assert "wanstreamer_units_missed_total 0.0" not in figures


class Told:
    """An inbox that is unpacked into, and what the client was told."""

    def __init__(self):
        self.inbox, self.errors, self.n_asked = Inbox(EYES, 4), [], 0
        self.unpacking = Unpacking(self.inbox, EYES, Replies(self.errors.append, self.ask))
        self.n_put = self.n_done = 0
        self._put, self._spend = self.unpacking._waiting.put, self.unpacking._share.spend
        self.unpacking._waiting.put, self.unpacking._share.spend = self.put, self.spend

    def ask(self):
        self.n_asked += 1

    def put(self, came):
        self.n_put += 1
        self._put(came)

    def spend(self, seconds):
        self._spend(seconds)
        self.n_done += 1

    def until_idle(self):
        began = time.monotonic()
        while self.n_done < self.n_put:
            assert time.monotonic() - began < 30, "the thread that decodes is not there"
            time.sleep(0.005)


def test_a_client_that_sends_too_much_is_cut_asked_for_a_key_frame_and_costs_no_memory(monkeypatch):
    may_decode = threading.Event()
    decode = PictureDecoder.decode

    def slow(self, picture):
        may_decode.wait()
        return decode(self, picture)

    monkeypatch.setattr(PictureDecoder, "decode", slow)
    told = Told()
    first, *rest = stream(EYES, 4 * MOST_WAITING)
    for k, picture in enumerate([first, *rest]):
        told.unpacking.put(0.0, StreamPictureIn(k * 40.0, picture))
    assert told.unpacking._waiting.qsize() <= MOST_WAITING
    may_decode.set()
    told.until_idle()
    told.unpacking.put(0.0, StreamPictureIn(1e5, rest[-1]))
    told.until_idle()
    assert told.n_asked == 1
    assert told.errors == []
    told.unpacking.put(0.0, StreamPictureIn(2e5, first))
    told.until_idle()
    assert told.inbox._pictures[-1].time_ms == 2e5
    told.unpacking.close()


def test_a_client_has_its_share_of_a_core_and_no_more(monkeypatch):
    share = Share()
    share.spend(2 * BURST_S)
    assert not share.is_left
    monkeypatch.setattr(Share, "is_left", False)
    told = Told()
    (first,) = stream(EYES, 1)
    told.unpacking.put(0.0, StreamPictureIn(0.0, first))
    told.unpacking.put(0.0, PacketIn(0.0, bytes([0xF8, 0])))
    told.until_idle()
    assert (told.n_asked, told.errors, len(told.inbox._pictures)) == (1, [], 0)
    assert told.inbox._sound._next is None
    told.unpacking.close()


def test_sound_that_is_lost_or_broken_is_silence_of_its_length():
    told, encoder = Told(), SoundEncoder()
    n_units, lost, broken = 6, 20, 30
    packets = encoder.encode(0.0, noise(n_units * UNIT_MS / 1000))
    for k, (time_ms, packet) in enumerate(packets):
        now_ms = 5000.0 + time_ms + 30
        if k != lost:
            told.unpacking.put(now_ms, PacketIn(time_ms, bytes([0xFF]) * 60 if k == broken else packet))
        told.until_idle()
    heard = [told.inbox.take(5000.0 + 40 + (k + 1) * UNIT_MS, read=True).samples for k in range(n_units - 1)]
    assert [error.name for error in told.errors] == ["bad_sound"]
    assert np.count_nonzero(np.concatenate(heard)[SAMPLES_PER_UNIT:] == 0) == pytest.approx(2 * 480, abs=2)
    told.unpacking.close()


def test_damage_in_the_thread_that_decodes_is_told_and_does_not_end_it():
    told = Told()
    first, second = stream(EYES, 2)
    told.unpacking.put(0.0, StreamPictureIn(0.0, StreamPicture(second.data, True)))
    told.unpacking.put(0.0, PacketIn(0.0, bytes([0xFF]) * 60))
    told.unpacking.put(0.0, StreamPictureIn(40.0, first))
    told.until_idle()
    assert [error.name for error in told.errors] == ["bad_picture", "bad_sound"]
    assert all(isinstance(error, WireError) for error in told.errors)
    assert told.n_asked == 1
    assert len(told.inbox._pictures) == 1
    told.unpacking.close()
