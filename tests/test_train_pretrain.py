"""The stage over tasks: its windows fit one batch, weigh what counts, are measured task by task, and it learns."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small, small_preset
from tests.data_cases import CONFIG as RECORDED
from tests.data_cases import WORLD, damage, write_dataset
from tests.stage_cases import learn
from tests.test_tokens import QWEN_LIKE
from wanstreamer_jax.config import TextConfig, WorldConfig
from wanstreamer_jax.data.dataset import DatasetWriter
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.samples import NOTE, read_note
from wanstreamer_jax.data.tasks import TASKS
from wanstreamer_jax.data.world import Split
from wanstreamer_jax.data.world_source import WorldSource
from wanstreamer_jax.timeline import Picture
from wanstreamer_jax.tokens import Tokenizer
from wanstreamer_jax.training.config import MeshShape, MixtureWeights, OptimizerConfig, PretrainWeights, Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.overrides import override
from wanstreamer_jax.training.sharding import make_mesh
from wanstreamer_jax.training.stages import find_stage, interact, pretrain, sessions
from wanstreamer_jax.training.step import Program, Update

U = 14
CONFIG = dataclasses.replace(
    small_preset.config,
    picture=Picture(32, 16),
    world=WorldConfig(max_text=40, max_voice=3),
    text=TextConfig(max_user=8, max_agent=6, unit_end=256),
)
NONE = MixtureWeights(*[0.0] * len(dataclasses.fields(MixtureWeights)))


def training_of(n_units=U, samples=64, batch=4, heldout_batches=2, **mixture):
    weights = PretrainWeights(units=n_units, mixture=dataclasses.replace(NONE, **mixture))
    return Training(weights=weights, samples=samples, batch=batch, heldout_batches=heldout_batches)


def stack(samples):
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


@functools.cache
def params():
    return jax.tree.map(jnp.asarray, small.small_params(CONFIG))


@functools.cache
def spoken():
    """Four windows, half of them of speech to be written, half of speech to be made; their latents are prepared."""
    training = training_of(batch=2, heldout_batches=2, asr=1.0, joint_generation=1.0)  # four windows are measured
    source = pretrain.source(CONFIG, training, False, None)
    batch = stack([source[i] for i in range(4)])
    assert [pretrain.NAMES[task] for task in batch["task"]] == ["asr", "joint_generation"] * 2

    @small.quick_jit
    def encode(parts, batch):
        return sessions.agent_latents(CONFIG, parts, batch), sessions.world_of(CONFIG, parts, batch)[1]

    agent, world = jax.tree.map(np.asarray, encode(params(), batch))
    for name in ("agent_frames", "agent_samples", "frame_before"):
        del batch[name]
    prepared = {"audio_mean": agent.audio, "video_mean": agent.video}
    return batch | prepared | {"voice_mean": world.audio, "portrait_mean": world.video}


def some(*which):
    return {name: jnp.asarray(x[np.array(which)]) for name, x in spoken().items()}


def trees():
    frozen = {name: params()[name] for name in interact.FROZEN}
    return {"agent": {name: params()[name] for name in interact.TRAINED}}, frozen


# ---- Samples


def test_every_task_fits_one_batch_and_weighs_what_is_its_own():
    training = Training(weights=PretrainWeights(units=28), samples=40)
    source = pretrain.source(CONFIG, training, False, None)
    samples = [source[i] for i in range(40)]
    batch = stack(samples)  # one shape
    assert set(batch["task"]) == set(range(len(pretrain.NAMES)))
    assert len(source) == 40
    for sample in samples:
        streams = pretrain.TASKS[pretrain.NAMES[sample["task"]]].streams
        assert tuple(x for x in sessions.LOSSES if sample[f"loss_{x}"].any()) == streams
        black = ~sample["agent_frames"].any(axis=(1, 2, 3, 4))
        assert not sample["loss_video"][black].any()


def test_a_sample_is_the_same_for_ever_and_held_out_ones_are_others():
    training = training_of(asr=1.0, image_captioning=1.0)
    first, again = (pretrain.source(CONFIG, training, False, None) for _ in range(2))
    heldout = pretrain.source(CONFIG, training, True, None)
    again[1]  # whatever was made before
    for name, x in first[2].items():
        assert np.array_equal(x, again[2][name], equal_nan=x.dtype == np.float32)
    told = {bytes(s["persona"].astype(np.uint8)) for s in (heldout[i] for i in range(6))}
    assert not told & {bytes(s["persona"].astype(np.uint8)) for s in (first[i] for i in range(6))}


def test_the_mixture_is_set_on_the_command_line():
    training = override(Training(weights=PretrainWeights()), {"weights.mixture.asr": "2.5", "weights.units": "20"})
    assert training.weights.mixture.asr == 2.5
    with pytest.raises(TrainingError, match="did you mean 'asr'"):
        override(training, {"weights.mixture.asrr": "1"})
    with pytest.raises(TrainingError, match="has no field 'seconds'"):  # examples are as long as they are
        override(training, {"weights.seconds": "9"})
    assert json.loads(json.dumps(dataclasses.asdict(training)))["weights"]["mixture"]["tts"] == 2.0


def test_a_mixture_of_nothing_and_windows_that_are_too_short_are_errors():
    with pytest.raises(ValueError, match="mixture"):
        pretrain.source(CONFIG, training_of(), False, None)
    with pytest.raises(ValueError, match=r"does not fit into 2 units \(weights.units\)"):
        pretrain.source(CONFIG, training_of(2, tts=1.0), False, None)[0]


# ---- Recordings


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    root = tmp_path_factory.mktemp("recordings")
    for split in Split:
        write_dataset(root / split)
    return root


def test_recordings_give_the_tasks_that_they_have_material_for(recordings, capsys):
    training = training_of(14, asr=1.0, tts=1.0, image_captioning=1.0)
    source = pretrain.source(RECORDED, training, False, recordings)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "nothing for image_captioning: left out of the mixture" in said
    batch = stack([source[i] for i in range(12)])
    assert {pretrain.NAMES[task] for task in batch["task"]} == {"asr", "tts"}
    asr = batch["task"] == pretrain.NAMES.index("asr")
    assert batch["loss_text"].any(axis=1).all()
    assert batch["loss_audio"][~asr].any(axis=1).all() and not batch["loss_audio"][asr].any()
    assert not batch["loss_video"].any()
    assert (batch["loss_text"] <= batch["unit_mask"]).all()
    again = pretrain.source(RECORDED, training, False, recordings)
    assert all(np.array_equal(x, again[5][name], equal_nan=True) for name, x in source[5].items())


def test_recordings_are_told_and_captioned_in_their_own_tokens(tmp_path):
    """With a tokenizer that joins bytes, which comes with the dataset."""
    tokenizer = Tokenizer(QWEN_LIKE)
    config = dataclasses.replace(
        RECORDED,
        text=dataclasses.replace(RECORDED.text, unit_end=tokenizer.n_entries),
        transformer=dataclasses.replace(RECORDED.transformer, vocab=tokenizer.n_entries + 1),
    )
    layout = Layout.of(config, tokenizer)
    caption = {"of": "image", "start_ms": 0, "end_ms": 400, "text": "A unit lasts."}
    (tmp_path / "train").mkdir()
    with DatasetWriter(tmp_path / "train", layout, tokenizer, None, 2**30) as writer:
        source = WorldSource(WORLD, tokenizer, layout, 2)
        for i in range(2):
            writer.add(source[i]._replace(labels={"captions": [caption]}))
        writer.finish({})
    taken = pretrain.source(config, training_of(asr=1.0, image_captioning=1.0), False, tmp_path)
    told = set()
    for sample in (taken[i] for i in range(8)):
        name = pretrain.NAMES[sample["task"]]
        persona = tokenizer.decode(sample["persona"][: sample["n_persona"]].tolist())
        assert persona in TASKS[name].instructions.train
        told.add(name)
        units = zip(sample["agent_text"], sample["n_agent_text"], strict=True)
        written = [i for row, n in units for i in row[: n - 1].tolist()]
        if name == "image_captioning":
            assert tokenizer.decode(written) == caption["text"]
            assert len(written) < len(caption["text"])
    assert told == {"asr", "image_captioning"}


def test_a_recording_that_cannot_be_read_is_noted(tmp_path):
    dataset = damage(write_dataset(tmp_path / "train", shard_bytes=1), 3)
    source, n = pretrain.source(RECORDED, training_of(asr=1.0), False, tmp_path), len(dataset)
    noted = {number: read_note(source[number][NOTE]) for number in range(n)}
    assert noted[3].record == 3 and "record train-00000003" in noted[3].reason
    assert set(noted.values()) == {None, noted[3]}


def test_recordings_without_any_material_are_one_clear_error(recordings):
    with pytest.raises(TrainingError, match="has nothing for any task of the mixture: dialogue, video_generation"):
        pretrain.source(RECORDED, training_of(dialogue=1.0, video_generation=1.0), False, recordings)


# ---- The loss, and what is measured


def test_the_loss_is_a_mean_over_windows_however_a_batch_is_cut():
    trainees, frozen = trees()
    weights = training_of(asr=1.0).weights

    @small.quick_jit
    def text_of(trainees, frozen, batch):
        return pretrain.interact.interaction(CONFIG, weights, trainees, frozen, batch, jax.random.key(0))[1]["text"]

    whole, *parts = (text_of(trainees, frozen, some(*which)) for which in ((0, 1), (0,), (1,)))
    assert parts[0] != parts[1]
    np.testing.assert_allclose(whole, np.mean(parts), rtol=1e-5)


def test_a_tasks_measures_are_means_over_its_windows_whatever_batches_they_are_in():
    trainees, frozen = trees()
    weights = training_of(asr=1.0, joint_generation=1.0, tts=1.0).weights

    @small.quick_jit
    def measure(trainees, frozen, batch):
        return pretrain.measure(CONFIG, weights, trainees, frozen, batch, jax.random.key(0))

    def mean_of(*batches):
        found = [measure(trainees, frozen, batch) for batch in batches]
        return {name: np.mean([m[name] for m in found]) for name in found[0]}

    mixed, sorted_ = mean_of(some(0, 1), some(2, 3)), mean_of(some(0, 2), some(1, 3))
    only = {
        name: measure(trainees, frozen, some(*which)) for name, which in (("asr", (0, 2)), ("joint_generation", (1, 3)))
    }
    for name, measured in only.items():
        for found in (mixed, sorted_):
            np.testing.assert_allclose(found[f"{name}_text"], measured["text"], rtol=1e-4)
    np.testing.assert_allclose(sorted_["joint_generation_video"], only["joint_generation"]["video"], rtol=1e-4)
    assert np.isnan(mixed["tts_audio"])  # of the mixture, but there is none: not measured
    assert "asr_audio" not in mixed and "dialogue_text" not in mixed


def test_a_preview_shows_texts_and_a_window_with_a_picture(tmp_path):
    trainees, frozen = trees()
    weights = training_of(asr=1.0).weights
    look = small.quick_jit(lambda t, f, b: pretrain.preview(CONFIG, weights, t, f, b, jax.random.key(0)))
    shown = jax.tree.map(np.asarray, look(trainees, frozen, some(0, 1)))
    assert np.isfinite(shown["real"]).all()
    again = look(trainees, frozen, some(1, 0))
    np.testing.assert_array_equal(shown["real"], again["real"])  # the second window, wherever it stands
    pretrain.draw(shown, tmp_path)
    lines = (tmp_path / "texts.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| asr", "| joint_generation"]
    rows = zip(spoken()["agent_text"][0], spoken()["n_agent_text"][0], strict=True)
    said = bytes(i for row, n in rows for i in row[: n - 1])
    assert lines[2].split(" | ")[2].replace(pretrain.SILENT, "") == said.decode()
    assert {"one_step.png", "one_step.mp4"} <= {path.name for path in tmp_path.iterdir()}


# ---- It learns


def test_senses_learn_at_their_own_rate():
    for rate in (0.0, 1.0):
        training = dataclasses.replace(training_of(asr=1.0), optimizer=OptimizerConfig(senses=rate))
        program = Program(pretrain.stage, CONFIG, training, make_mesh(MeshShape(data=1)))
        state = small.quick_jit(program.init)(params())
        before = state.trainees[interact.AGENT]
        update = Update(jax.tree.map(jnp.ones_like, before), {"loss": jnp.float32(0)})
        apply = small.quick_jit(functools.partial(program.apply, interact.AGENT))
        after = apply(state, update)[0].trainees[interact.AGENT]
        senses = [tree["perception"] for tree in (before, after)]
        assert jax.tree.all(jax.tree.map(np.array_equal, *senses)) == (rate == 0)
        rest = [tree["transformer"]["embedding"] for tree in (before, after)]
        assert np.all(rest[0] != rest[1])


def test_pretrain_learns_a_small_set():
    n_steps = 80
    training = dataclasses.replace(
        training_of(asr=1.0, joint_generation=1.0),
        batch=2,
        steps=n_steps,
        mesh=MeshShape(1, 1, 1),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup=5, weight_decay=0.0, clip=10.0),
    )
    program = Program(find_stage("pretrain"), CONFIG, training, make_mesh(training.mesh))
    _, _, logged = learn(program, params(), some(0, 1))
    last = {name: np.mean([m[f"agent/{name}"] for m in logged[-10:]]) for name in ("loss", "text", "audio", "video")}
    assert logged[0]["agent/loss"] > 15 and last["loss"] < 2
    assert last["text"] < 1 and last["audio"] < 0.65 and last["video"] < 0.65
