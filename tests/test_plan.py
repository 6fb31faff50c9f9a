"""The planner: published floors and estimates, the model's own shapes, and choices that are impossible."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import pytest

from wanstreamer_jax import plan
from wanstreamer_jax.cache import init_history
from wanstreamer_jax.config import Config, FlowConfig, HistoryConfig
from wanstreamer_jax.model import init_params, part
from wanstreamer_jax.parallel.ulysses import Ulysses
from wanstreamer_jax.planning import costs
from wanstreamer_jax.planning.beat import Step, perform, rank_memory, thinker_memory, unit_exchange
from wanstreamer_jax.planning.hardware import EXPECTED, GPUS, PEAK
from wanstreamer_jax.planning.roofline import exchanged_bytes, reading, solver_step, writing
from wanstreamer_jax.presets import QWEN3, load_preset
from wanstreamer_jax.timeline import AUDIO_LATENTS_PER_UNIT
from wanstreamer_jax.vae import conv3d

EXAMPLE = "--preset v02_640x368 --model 1.7b --gpu h200 --ranks 4 --solver-steps 2 --window 100000"

# A unit's solver steps in ms, calculated independently, for 252 and 920 video tokens and no sound.
# GPU, preset, model, window in thousands | on 1, 2, 4 and 8 ranks: 1 / 2 / 4 solver steps.
FLOORS = """
h200 v01_192p    0.6b  10 | 0.8 / 1.6 / 3.3    | 0.5 / 1.0 / 1.9    | 0.3 / 0.7 / 1.3    | 0.3 / 0.5 / 1.0
h200 v01_192p    1.7b 100 | 6.6 / 13.2 / 26.3  | 3.5 / 7.0 / 14.1   | 2.1 / 4.1 / 8.2    | 1.3 / 2.6 / 5.3
h200 v01_192p    4b   400 | 62.0 / 124 / 248   | 31.6 / 63.2 / 126  | 16.6 / 33.1 / 66.2 | 9.0 / 18.1 / 36.1
h200 v01_192p    8b    10 | 5.1 / 10.2 / 20.3  | 3.7 / 7.3 / 14.7   | 3.3 / 6.6 / 13.1   | 3.1 / 6.2 / 12.3
h200 v02_640x368 0.6b 100 | 22.4 / 44.7 / 89.4 | 11.2 / 22.4 / 44.7 | 5.6 / 11.2 / 22.4  | 2.9 / 5.8 / 11.5
h200 v02_640x368 1.7b  10 | 5.0 / 9.9 / 19.8   | 2.5 / 5.0 / 9.9    | 1.2 / 2.5 / 5.0    | 0.9 / 1.8 / 3.5
h200 v02_640x368 1.7b 100 | 24.2 / 48.3 / 96.6 | 12.1 / 24.2 / 48.3 | 6.0 / 12.1 / 24.2  | 3.3 / 6.6 / 13.1
h200 v02_640x368 1.7b 400 | 88.2 / 176 / 353   | 44.1 / 88.2 / 176  | 22.0 / 44.1 / 88.2 | 11.3 / 22.6 / 45.1
h200 v02_640x368 8b   100 | 68.3 / 137 / 273   | 34.1 / 68.3 / 137  | 17.1 / 34.1 / 68.3 | 9.8 / 19.6 / 39.3
h100 v01_192p    0.6b 400 | 23.7 / 47.3 / 94.6 | 12.0 / 23.9 / 47.8 | 6.1 / 12.2 / 24.4  | 3.2 / 6.4 / 12.7
h100 v01_192p    1.7b  10 | 1.4 / 2.9 / 5.8    | 1.1 / 2.3 / 4.6    | 1.0 / 2.0 / 4.0    | 0.9 / 1.8 / 3.7
h100 v01_192p    8b   100 | 19.2 / 38.4 / 76.9 | 11.7 / 23.4 / 46.7 | 7.9 / 15.8 / 31.7  | 6.0 / 12.1 / 24.1
h100 v02_640x368 1.7b 100 | 24.2 / 48.3 / 96.6 | 12.1 / 24.2 / 48.3 | 6.2 / 12.4 / 24.9  | 3.5 / 7.1 / 14.1
h100 v02_640x368 4b    10 | 12.8 / 25.5 / 51.0 | 6.4 / 12.8 / 25.5  | 3.7 / 7.3 / 14.7   | 2.9 / 5.8 / 11.7
h100 v02_640x368 8b   400 | 233 / 466 / 932    | 116 / 233 / 466    | 59.1 / 118 / 237   | 31.6 / 63.3 / 127
"""
ESTIMATES = """
h200 v01_192p    0.6b 100 | 11.6 / 23.1 / 46.2 | 6.9 / 13.7 / 27.4  | 4.2 / 8.4 / 16.7   | 2.8 / 5.6 / 11.3
h200 v01_192p    4b   400 | 113 / 226 / 452    | 58.3 / 117 / 233   | 30.9 / 61.9 / 124  | 17.2 / 34.4 / 68.8
h200 v01_192p    8b    10 | 9.0 / 17.9 / 35.9  | 6.7 / 13.5 / 27.0  | 6.0 / 12.0 / 24.1  | 5.6 / 11.2 / 22.5
h200 v02_640x368 1.7b 100 | 43.7 / 87.5 / 175  | 23.1 / 46.2 / 92.3 | 12.2 / 24.4 / 48.9 | 7.0 / 13.9 / 27.9
h200 v02_640x368 8b   400 | 421 / 841 / 1682   | 212 / 424 / 848    | 107 / 214 / 428    | 55.4 / 111 / 222
"""
# GPU, model, tokens, window in thousands | ms to read the tokens + to write one of text: floor | estimate.
THINKING = """
h200 0.6b  520  10 | 1.7 + 0.5  | 3.6 + 1.3
h200 1.7b 1856 100 | 49.1 + 3.1 | 88.4 + 4.6
h200 8b   1856 400 | 471 + 15.4 | 850 + 20.2
h100 4b    520 100 | 35.0 + 6.8 | 63.3 + 9.4
h100 8b   1856  10 | 39.2 + 5.0 | 64.7 + 7.1
"""


def rows(text: str) -> list[list[str]]:
    return [line.split("|") for line in text.strip().splitlines()]


def agrees(ours: float, published: str, tolerance: float) -> bool:
    """Within a share of the published number, and the half of its last digit that rounding hides."""
    half = 0.5 * 10.0 ** -len(published.strip().partition(".")[2])
    return abs(ours - float(published)) <= tolerance * float(published) + half


@functools.cache
def preset(name: str) -> Config:
    return load_preset(name)


def performed(key: str, ranks: int, solver_steps: int) -> Step:
    gpu, name, model, thousands = key.split()
    history, flow = HistoryConfig(n_tokens=1000 * int(thousands)), FlowConfig(solver_steps=solver_steps)
    config = dataclasses.replace(preset(name), transformer=QWEN3[model], history=history, flow=flow)
    return perform(config, GPUS[gpu], ranks)


@pytest.mark.parametrize(
    ("table", "field", "tolerance"), [(FLOORS, "floor_ms", 0.02), (ESTIMATES, "expected_ms", 0.05)]
)
def test_perform_takes_what_was_published(table, field, tolerance):
    for key, *by_ranks in rows(table):
        for ranks, cells in zip((1, 2, 4, 8), by_ranks, strict=True):
            for solver_steps, cell in zip((1, 2, 4), cells.split("/"), strict=True):
                ours = getattr(performed(key, ranks, solver_steps), field)
                assert agrees(ours, cell, tolerance), (key, ranks, solver_steps, cell, ours)


@pytest.mark.parametrize(("key", "floor", "estimate"), rows(THINKING))
def test_thinking_takes_what_was_published(key, floor, estimate):
    gpu, model, n_tokens, thousands = key.split()
    t, keys = QWEN3[model], 1000 * int(thousands)
    for share, cells in ((PEAK, floor), (EXPECTED, estimate)):
        read, write = (work.seconds(GPUS[gpu], share) for work in (reading(t, int(n_tokens), keys), writing(t, keys)))
        for ours, cell in zip((read, write + share.token_s), cells.split("+"), strict=True):
            assert agrees(1000 * ours, cell, 0.02), (key, cell, 1000 * ours)


def test_a_rank_sends_what_was_published():
    # 63 tokens a rank, 16 query and 8 key/value heads of 128, to 3 other ranks: 581 KB a layer.
    assert exchanged_bytes(QWEN3["1.7b"], 252, 0, R=4) == 580_608
    assert exchanged_bytes(QWEN3["1.7b"], 252, 2, R=1) == 0


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_rank_sends_what_the_performer_exchanges(ranks):
    config = preset("v01_192p")  # 252 tokens: eight ranks pad them
    t, ulysses = config.transformer, Ulysses("ulysses", ranks, AUDIO_LATENTS_PER_UNIT, config.picture.n_tokens)
    a_layer = unit_exchange(config, GPUS["h200"], ranks).bytes / (t.layers * config.flow.solver_steps)
    assert a_layer == ulysses.exchanged_bytes(t.heads, t.kv_heads, t.head_size, itemsize=2)


def test_ranks_share_the_work_of_one():
    t = QWEN3["0.6b"]
    one, of_eight = (solver_step(t, 256, 0, 10_000, R) for R in (1, 8))
    assert 8 * of_eight.flop == one.flop
    assert 8 * of_eight.history_bytes == one.history_bytes
    assert of_eight.weight_bytes == one.weight_bytes


# ---- Against the model's own shapes


@functools.cache
def shapes(config: Config):
    return jax.eval_shape(functools.partial(init_params, config, 0))


def size(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))


def state_of(config: Config, name: str, inner: str) -> int:
    def init(params):
        return getattr(part(config, {name: params}, name), inner).init_state(1)

    return size(jax.eval_shape(init, shapes(config)[name]))


def test_parts_have_the_parameters_of_the_model():
    config = preset("tiny")
    params = shapes(config)
    assert costs.observing(config).parameters == size(params["perception"])
    for name, kind in (("video_vae", "video"), ("audio_vae", "audio")):
        cfg = getattr(config, name)
        sizes = (cfg, config.picture) if kind == "video" else (cfg,)
        for face in ("encoder", "decoder"):
            cost = getattr(costs, f"{kind}_{face}")(*sizes)
            assert cost.parameters == size(params[name][face]), (name, face)
            assert cost.state == state_of(config, name, face), (name, face)
    assert costs.hearing(config.hearing, 1).state == state_of(config, "perception", "hearing")


def test_memory_is_that_of_the_model():
    config, n_bytes = preset("tiny"), 4  # float32
    transformer, (thinker, rank) = shapes(config)["transformer"], (thinker_memory(config), rank_memory(config, 8))
    assert thinker.weights == rank.weights == n_bytes * size(transformer)
    history = jax.eval_shape(functools.partial(init_history, config, 1))
    assert thinker.history == 8 * rank.history == n_bytes * size((history.k, history.v))


def test_render_does_the_arithmetic_that_the_compiler_counts(monkeypatch):
    """As on a GPU: a CPU has a form with fewer multiplications."""
    monkeypatch.setattr(conv3d.jax, "default_backend", lambda: "cuda")
    config = preset("tiny")

    def render(params, z):
        decoder = part(config, {"video_vae": params}, "video_vae").decoder
        return decoder.step(z, decoder.init_state(1))

    z = jax.ShapeDtypeStruct((1, 1, *config.picture.latent_grid, config.video_vae.latent_channels), jnp.float32)
    counted = jax.jit(render).lower(shapes(config)["video_vae"], z).cost_analysis()["flops"]
    assert costs.video_decoder(config.video_vae, config.picture).flop == pytest.approx(counted, rel=0.05)


# ---- The program


def answer(capsys, arguments: str) -> dict:
    assert plan.main([*arguments.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_table_and_json_tell_the_same(capsys):
    told = answer(capsys, EXAMPLE)
    assert plan.main(EXAMPLE.split()) == 0
    table = capsys.readouterr().out
    assert f"{told['largest_window']:,} tokens" in table
    for step in told["steps"]:
        assert f"{step['floor_ms']:.2f}" in table
        assert f"{step['expected_ms']:.2f}" in table
    assert "160 ms holds" in table


def test_a_unit_is_what_must_wait_for_each_other(capsys):
    told = answer(capsys, EXAMPLE)
    ms = {x["name"]: x["expected_ms"] for x in told["steps"] + told["transfers"]}
    thinking, performing = (
        ms["think: read"] + ms["think: write"],
        ms["slice"] + ms["perform"] + ms["gather"] + ms["latents"],
    )
    assert told["unit_ms"] == pytest.approx(thinking + max(performing, ms["render"] + ms["observe"]))
    assert told["response_ms"] == pytest.approx(ms["observe"] + thinking + performing + ms["render"])
    assert told["holds"] == (told["unit_ms"] <= 160)
    assert not answer(capsys, EXAMPLE.replace("100000", "400000"))["holds"]


def test_the_largest_window_is_the_largest(capsys):
    largest = answer(capsys, EXAMPLE)["largest_window"]
    assert plan.main(EXAMPLE.replace("100000", str(largest)).split()) == 0
    assert plan.main(EXAMPLE.replace("100000", str(largest + 1)).split()) == 2
    assert f"at most {largest:,} tokens fit" in capsys.readouterr().err


def test_without_options_a_preset_is_planned_as_it_is(capsys):
    told = answer(capsys, "--preset tiny --gpu b200 --ranks 8")
    assert (told["window"], told["solver_steps"]) == (5376, 2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--ranks 4", "--ranks 3"), "3 ranks cannot share 8 key/value heads evenly: choose one of 1, 2, 4, 8"),
        (("--ranks 4", "--ranks 0"), "0 ranks cannot share"),
        (("1.7b", "1.8b"), "no model '1.8b': did you mean '1.7b'?"),
        (("1.7b", "?"), "no model '?': there are 0.6b, 1.7b, 4b, 8b"),
        (("h200", "H20"), "no GPU 'H20': did you mean 'h200'?"),
        (("v02_640x368", "v02"), "no preset 'v02'"),
        (("--solver-steps 2", "--solver-steps 0"), "flow.solver_steps: 0 is too small"),
        (("100000", "1000"), "history.n_tokens: at least 1012"),
        (("100000", "9000000"), "a window of 9,000,000 tokens needs"),
    ],
)
def test_an_impossible_choice_is_one_sentence(assert_refused, change, sentence):
    assert_refused(plan.main(EXAMPLE.replace(*change).split()), sentence)
