"""Recordings: session folders that validate, aligned unit by unit, with the words where they were said and typed."""

import asyncio
import json
from itertools import pairwise

import numpy as np

from tests.server_cases import (
    AGENT,
    CHUNK,
    CONFIG,
    connected,
    grey,
    heard_from,
    jpeg,
    of_type,
    packed,
    pcm,
    served,
    speak,
)
from wanstreamer_jax.data.validate import problems_of
from wanstreamer_jax.media import open_media
from wanstreamer_jax.serving.conversation import UnitOut
from wanstreamer_jax.serving.inbox import Losses, Seen
from wanstreamer_jax.serving.recording import FolderRecorder, spoken
from wanstreamer_jax.serving.replay.reading import open_recording
from wanstreamer_jax.serving.service import Rules
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.stream.pace import Counters
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UNIT_MS


def seen(level):
    picture = CONFIG.vision.picture
    frames = np.full((FRAMES_PER_UNIT, picture.height, picture.width, 3), level, np.uint8)
    return Seen(frames, np.full(SAMPLES_PER_UNIT, level / 512, np.float32), [], 0.0)


def out(unit, level, text=""):
    frames = np.full((FRAMES_PER_UNIT, CONFIG.picture.height, CONFIG.picture.width, 3), level, np.uint8)
    samples = np.full(SAMPLES_PER_UNIT, level / 512, np.float32)
    return UnitOut(unit, frames, samples, text, 0.0, 1.0, False, Counters(), Losses())


def levels(path, picture):
    with open_media(path, picture) as media:
        return [float(unit.frames.mean()) for unit in media]


def test_both_sides_lie_on_one_clock_whichever_comes_first(tmp_path):
    portrait = np.full((CONFIG.picture.height, CONFIG.picture.width, 3), 50, np.uint8)
    setting = Setting("kind", portrait, np.full(5000, 0.1, np.float32))
    recorder = FolderRecorder(tmp_path, "CC0-1.0", AGENT, setting, 7)
    order = [("u", 0), ("a", 0), ("a", 1), ("a", 2), ("u", 1), ("u", 2), ("u", 3), ("a", 3), ("u", 4)]
    for side, k in order:
        if (side, k) == ("u", 3):
            recorder.typed("what now")
        if side == "u":
            recorder.user(seen(40 + 20 * k))
        else:
            recorder.agent(out(k, 60 + 20 * k, {1: "Hel", 2: "lo, you", 3: "!"}.get(k, "")))
    recorder.finish()
    assert problems_of(recorder.folder) == []
    user, agent = (levels(recorder.folder / name, CONFIG.vision.picture) for name in ("user.mp4", "agent.mp4"))
    np.testing.assert_allclose(user, [40, 60, 80, 100], atol=4)
    assert len(agent) == 4
    words = [json.loads(line) for line in (recorder.folder / "words.jsonl").read_text().splitlines()]
    assert [(w["who"], w["text"]) for w in words] == [
        ("agent", "Hello,"),
        ("agent", "you!"),
        ("user_typed", "what"),
        ("user_typed", "now"),
    ]
    assert words[0]["start_ms"] == UNIT_MS
    assert words[2]["end_ms"] == 4 * UNIT_MS
    about = json.loads((recorder.folder / "session.json").read_text())
    assert (about["licence"], about["units"], about["world"]["persona"]) == ("CC0-1.0", 4, "kind")
    assert sorted(p.name for p in tmp_path.iterdir()) == [recorder.folder.name]


def test_a_recording_without_a_unit_is_none(tmp_path):
    recorder = FolderRecorder(tmp_path, "x", AGENT, Setting(), 0)
    recorder.user(seen(1))
    recorder.finish()
    assert list(tmp_path.iterdir()) == []


def test_words_of_one_unit_share_it_and_none_overlaps_the_next():
    said = [(0, c) for c in "a b c"] + [(2, " "), (2, "d"), (3, "e"), (3, " "), (3, "f")]
    words = spoken(said)
    assert [w["text"] for w in words] == ["a", "b", "c", "de", "f"]
    assert [w["start_ms"] for w in words] == [0, 53, 106, 320, 480]
    assert all(a["end_ms"] <= b["start_ms"] for a, b in pairwise(words))
    assert words[-1]["end_ms"] == 640


def test_a_conversation_is_recorded_when_its_user_wants_that_and_the_server_may(tmp_path):
    async def run():
        async with served(rules=Rules(recordings=tmp_path, licence="CC0-1.0")) as server:
            async with connected(server, {"record": True, "persona": "kind"}) as ws:
                speaking = asyncio.create_task(speak(ws, 1.5))
                await heard_from(ws, of_type("started"))
                await ws.send_str(json.dumps({"type": "text", "text": "hello"}))
                await speaking
                await heard_from(ws, lambda m: m["type"] == "unit" and not m["concealed"])
                await ws.send_str('{"type": "stop"}')
                await heard_from(ws, of_type("goodbye"))
            await server.until_free()
            async with connected(server, {}) as ws:
                await heard_from(ws, of_type("unit"))
            await server.until_free()
        async with served() as server, connected(server, {"record": True}) as ws:
            return (await heard_from(ws, of_type("error")))[-1]["name"]

    assert asyncio.run(run()) == "no_recording"
    folder, tape = sorted(tmp_path.iterdir())
    assert problems_of(folder) == []
    assert tape.name == f"{folder.name}.json"
    assert open_recording(tape).n_replies > 0


def test_a_full_disk_costs_the_conversation_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        FolderRecorder, "_write", lambda self, folder, items: (_ for _ in ()).throw(OSError("no space left"))
    )

    async def run():
        async with served(rules=Rules(recordings=tmp_path, licence="x")) as server:
            async with connected(server, {"record": True}) as ws:
                await ws.send_bytes(packed(2, 0.0, pcm(np.zeros(CHUNK))))
                await ws.send_bytes(packed(1, 0.0, jpeg(grey(5))))
                await heard_from(ws, lambda m: m["type"] == "unit" and m["unit"] == 2)
            return await server.until_free()

    asyncio.run(run())
    assert [path.is_dir() for path in tmp_path.iterdir()] == [False]  # what can be replayed was written
