"""Tasks from recordings: what was said is what is written or spoken, nothing is cut, and nothing is made up."""

import dataclasses
import functools

import numpy as np
import pytest

from tests.test_data_tasks import LAYOUT, TOKENIZER, agent_text, last_typed, text
from wanstreamer_jax.data.tasks import TASKS
from wanstreamer_jax.data.tasks.example import Setting
from wanstreamer_jax.data.tasks.recorded import example_of
from wanstreamer_jax.data.world import Kind, Split, Who, World
from wanstreamer_jax.data.world_source import WorldSource
from wanstreamer_jax.timeline import UNIT_MS

U = 30
SETTING = Setting(dataclasses.replace(LAYOUT, max_persona=80), TOKENIZER, Split.TRAIN, U)
CAPTIONS = [
    {"of": "image", "start_ms": 1600, "end_ms": 1900, "text": "A card."},
    {"of": "video", "start_ms": 800, "end_ms": 2400, "text": "Somebody moves."},
    {"of": "audio", "start_ms": 0, "end_ms": 1000, "text": "A voice."},
    {"of": "audio", "start_ms": 0, "end_ms": 60_000, "text": "Longer than it is."},
]
SPOKEN = ("asr", "tts", "joint_generation")


@functools.cache
def records():
    mixture = {Kind.GREETING: 1.0, Kind.REPEAT: 1.0, Kind.COLOUR: 1.0}
    source = WorldSource(World(seconds=9.0, mixture=mixture), TOKENIZER, SETTING.layout, 4)
    return [source[i]._replace(labels={"captions": CAPTIONS}) for i in range(4)]


def examples(task, setting=SETTING):
    made = [example_of(task, record, np.random.default_rng(seed), setting) for record in records() for seed in range(4)]
    return [x for x in made if x is not None]


def units_of(part, whole):
    """Where some units of an array lie in another one."""
    return next(i for i in range(len(whole) - len(part) + 1) if np.array_equal(whole[i : i + len(part)], part))


@pytest.mark.parametrize("task", SPOKEN)
def test_a_stretch_of_a_session_obeys_the_timeline(task):
    assert len(examples(task)) > 8
    for record, counts in examples(task):
        assert record.n_units <= U
        assert {len(x) for x in (*counts, record.user_frames, record.agent_samples, record.n_heard)} == {record.n_units}
        assert record.n_user_text.max() <= LAYOUT.max_user_text
        assert (record.agent_text[np.arange(record.n_units), record.n_agent_text - 1] == LAYOUT.unit_end).all()
        has = {"text": record.streams.agent_text, "audio": record.streams.agent_audio}
        has["video"] = record.streams.agent_video
        assert {name: bool(getattr(counts, name).any()) for name in has} == has
        assert has == {name: name in TASKS[task].streams for name in has}
        assert record.latents is None


@pytest.mark.parametrize("seed", range(4))
def test_a_transcript_is_of_words_that_are_heard_whole(seed):
    for whole in records():
        record, _ = example_of("asr", whole, np.random.default_rng(seed), SETTING)
        start = units_of(record.user_samples, whole.user_samples)
        first_ms, last_ms = start * UNIT_MS, (start + record.n_units) * UNIT_MS
        users = [w for w in whole.words if w["who"] == Who.USER]
        heard = [w["text"] for w in users if first_ms <= w["start_ms"] and w["end_ms"] <= last_ms]
        assert not [w for w in users if w["start_ms"] < first_ms < w["end_ms"]]
        assert "".join(agent_text(record)).strip() == " ".join(heard)[: len("".join(agent_text(record)).strip())]
        assert len("".join(agent_text(record))) >= len(" ".join(heard)) - 3 * LAYOUT.max_agent_text


@pytest.mark.parametrize("task", ["tts", "joint_generation"])
def test_what_is_typed_is_said_as_it_was(task):
    for record, counts in examples(task):
        typed = "".join(text(record.user_text, record.n_user_text))
        assert typed == "".join(agent_text(record))
        lead = last_typed(record) + 1
        assert not record.agent_samples[:lead].any()
        assert (record.n_agent_text[:lead] == 1).all() and record.n_agent_text[lead] > 1
        assert not counts.video[:lead].any()
        whole = next(r for r in records() if record.name.startswith(r.name))
        start = int(record.name.removeprefix(f"{whole.name} + ").removesuffix(f", {task}"))
        assert np.array_equal(record.agent_samples[lead:], whole.agent_samples[start : start + record.n_units - lead])
        first_ms, last_ms = start * UNIT_MS, (start + record.n_units - lead) * UNIT_MS
        said = [w for w in whole.words if w["who"] == Who.AGENT and first_ms <= w["start_ms"] < last_ms]
        assert typed.strip() == " ".join(w["text"] for w in said)
        assert max(w["end_ms"] for w in said) <= last_ms
        if task == "joint_generation":
            assert np.array_equal(record.agent_frames[lead:], whole.agent_frames[start : start + record.n_units - lead])


def test_captions_are_those_that_the_recording_has():
    for kind, caption in (("image", "A card."), ("video", "Somebody moves."), ("audio", "A voice.")):
        for record, _ in examples(f"{kind}_captioning"):
            written = agent_text(record)
            assert "".join(written) == caption
            known_ms = {"image": 0, "video": 2400 - 800, "audio": 1000}[kind]
            first = next(unit for unit, piece in enumerate(written) if piece)
            assert (first + 1) * UNIT_MS >= known_ms
            assert record.streams.user_video == (kind != "audio")
    bare = records()[0]._replace(labels={})
    assert example_of("image_captioning", bare, np.random.default_rng(0), SETTING) is None


def test_without_what_a_task_needs_there_is_no_example():
    record = records()[0]
    lacking = {"asr": "heard", "tts": "agent_text", "joint_generation": "agent_video"}
    for task, stream in lacking.items():
        without = record._replace(streams=record.streams._replace(**{stream: False}))
        assert example_of(task, without, np.random.default_rng(0), SETTING) is None
    for task in ("dialogue", "spoken_dialogue", "image_generation", "audio_generation", "video_generation"):
        assert not examples(task)
