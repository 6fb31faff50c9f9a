"""Whatever the placement, one conversation: thinker on one device, performer on up to eight ranks."""

import dataclasses
import functools
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from wanstreamer_jax.attention import attend
from wanstreamer_jax.config import FlowConfig
from wanstreamer_jax.parallel.mesh import AXIS, automatic_ranks, choose_devices
from wanstreamer_jax.parallel.ulysses import Ulysses, Whole
from wanstreamer_jax.stream import placement as placement_module
from wanstreamer_jax.stream.performer import performer_split
from wanstreamer_jax.stream.placement import HistoryFullError, Start
from wanstreamer_jax.stream.split import Split
from wanstreamer_jax.stream.unified import Unified
from wanstreamer_jax.stream.worker import Event, StepError, Worker, write_trace

CONFIG = small.small_config(flow=FlowConfig(solver_steps=2))
N_UNITS, RESTART = 200, 120
SOUND_ATOL = 2e-5  # of samples in [-1, 1]: sharding reorders sums
PIXEL_ATOL = 1  # of 255


def start(seed=1):
    return Start(small.a_world(CONFIG, seed=seed), np.array([7, 4]), [seed, seed + 1])


def split(ranks):
    return Split(CONFIG, small.small_params(CONFIG), choose_devices(ranks, CONFIG.transformer.kv_heads))


def converse(placement, n_units=N_UNITS, restart=RESTART):
    """Two sessions; the second ends at unit `restart` and another begins in its place."""
    seen = small.observations(CONFIG, n_units)
    placement.begin(start())
    replies = list(placement.stream(seen[:restart]))
    placement.restart(np.array([False, True]), start(seed=5))
    replies += list(placement.stream(seen[restart:]))
    tokens = placement.history_tokens
    placement.close()
    return replies, tokens


@pytest.fixture(scope="module")
def unified():
    return converse(Unified(CONFIG, small.small_params(CONFIG)))


def test_split_is_unified_bit_for_bit(unified):
    replies, tokens = converse(split(1))
    assert tokens == unified[1]
    n_world = 5 + 2 + CONFIG.picture.n_tokens  # text, voice, portrait of the first session
    assert tokens[0] == n_world + CONFIG.history.n_tokens  # the window has wrapped around
    for a, b in zip(replies, unified[0], strict=True):
        assert (a.unit, a.text) == (b.unit, b.text)
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.samples, b.samples)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ulysses_is_unified(unified, ranks):
    replies, tokens = converse(split(ranks))
    assert tokens == unified[1]
    for a, b in zip(replies, unified[0], strict=True):
        assert a.text == b.text
        np.testing.assert_allclose(a.samples, b.samples, atol=SOUND_ATOL)
        np.testing.assert_allclose(a.frames.astype(int), b.frames, atol=PIXEL_ATOL)


def test_a_restarted_session_is_a_fresh_one(unified):
    """The session that took the second place at unit RESTART lives what it lives from the beginning."""
    fresh = Unified(CONFIG, small.small_params(CONFIG))
    fresh.begin(start(seed=5))
    for a, b in zip(fresh.stream(small.observations(CONFIG, N_UNITS)[RESTART:]), unified[0][RESTART:], strict=True):
        assert a.text[1] == b.text[1]
        np.testing.assert_allclose(a.samples[1], b.samples[1], atol=1e-6)
    fresh.close()


def test_before_the_sessions_have_begun_there_is_nothing_to_wait_for():
    placement = Unified(CONFIG, small.small_params(CONFIG))
    placement.settle()
    placement.close()


def test_step_by_step_is_the_stream(unified):
    placement = split(1)
    placement.begin(start())
    for seen, expected in zip(small.observations(CONFIG, N_UNITS)[:5], unified[0][:5], strict=True):
        reply = placement.step(seen)
        assert (reply.unit, reply.text) == (expected.unit, expected.text)
        np.testing.assert_array_equal(reply.samples, expected.samples)
        assert set(reply.step_ms) == set(placement_module.STEPS)
    placement.close()


def lowered_perform(ranks):
    """The performer's program over `ranks`, and the abstract history that it is given."""
    placement = split(ranks)
    placement.begin(start())
    placement.step(small.observations(CONFIG, 1)[0])
    state, history = placement._state, placement._history
    seen = small.observations(CONFIG, 1)[0]
    (observed, _) = jax.eval_shape(placement._jit_observe, placement._params, state.hearing, seen)
    beat = placement._beat()
    thought = jax.eval_shape(placement._jit_think, placement._params, state.history, observed, state.response, beat)
    noise = jax.eval_shape(placement._jit_noise, beat)
    args = (placement._performer_params, history, thought.new, noise, jax.device_put(beat, placement._on_ranks))
    lowered = placement._jit_perform(CONFIG.flow.solver_steps).lower(*args)
    placement.close()
    return lowered, history


@pytest.mark.parametrize("ranks", [2, 8])
def test_the_performer_exchanges_twice_a_layer_and_nothing_of_the_history(ranks):
    lowered, _ = lowered_perform(ranks)
    text = lowered.compile().as_text()
    n_steps, t = CONFIG.flow.solver_steps, CONFIG.transformer
    exchanges = re.findall(r"= (\S+) all-to-all\(", text) or re.findall(r"= \((.*?)\) all-to-all\(", text)
    assert len(exchanges) == 2 * t.layers * n_steps
    assert len(re.findall(r" all-gather\(", text)) == 1  # the latents, once, at the end
    assert not re.findall(r" (all-reduce|reduce-scatter|collective-permute)\(", text)
    shapes = re.findall(
        r"tensor<([0-9x]+)xf32>\) -> tensor<[0-9x]+xf32>\s*$", "\n".join(_exchange_types(lowered)), re.M
    )
    moved = sum(4 * int(np.prod([int(n) for n in s.split("x")])) for s in shapes) * (ranks - 1) // ranks
    formula = performer_split(CONFIG, ranks).exchanged_bytes(t.heads, t.kv_heads, t.head_size, 4)
    assert moved == 2 * formula * t.layers * n_steps  # two sessions


def _exchange_types(lowered):
    """The type of each all-to-all in StableHLO, as (operand) -> result."""
    return re.findall(r"stablehlo\.all_to_all.*?: (\(tensor<[^>]*>\) -> tensor<[^>]*>)", lowered.as_text(), re.S)


def test_each_rank_holds_its_share_of_one_history():
    ranks = 8
    lowered, history = lowered_perform(ranks)
    for layer in (*history.k, *history.v):
        for shard in layer.addressable_shards:
            assert shard.data.nbytes == layer.nbytes // ranks
    memory = lowered.compile().memory_analysis()
    share = sum(x.nbytes for x in (*history.k, *history.v)) // ranks
    assert memory.alias_size_in_bytes >= share  # a step gives the history back where it was


def test_only_slices_and_latents_cross(monkeypatch):
    placement = split(4)
    placement.begin(start())
    crossed: dict[str, int] = {"performer": 0, "thinker": 0}
    put = jax.device_put

    def counted(x, sharding):
        to = "thinker" if sharding.device_set == placement._on_thinker.device_set else "performer"
        crossed[to] += sum(leaf.nbytes for leaf in jax.tree.leaves(x))
        return put(x, sharding)

    monkeypatch.setattr(jax, "device_put", counted)
    placement.step(small.observations(CONFIG, 1)[0])
    monkeypatch.undo()
    t, layout = CONFIG.transformer, CONFIG.layout
    new = 2 * t.layers * 2 * t.kv_heads * layout.n_slice * t.head_size * 4
    beat = sum(leaf.nbytes for leaf in jax.tree.leaves(placement._beat()))
    latents = sum(leaf.nbytes for leaf in jax.tree.leaves(placement._state.response))
    assert crossed == {"performer": new + 2 * 4 + beat, "thinker": latents}
    assert beat < 200
    placement.close()


def test_nothing_compiles_after_the_first_units():
    compiled = []

    def listener(event, duration_secs, **_):
        compiled.append(event == "/jax/core/compile/backend_compile_duration")

    placement = split(2)
    placement.begin(start())
    seen = small.observations(CONFIG, 12)
    list(placement.stream(seen[:2]))
    jax.monitoring.register_event_duration_secs_listener(listener)
    lengths = {tuple(len(ids) for ids in reply.text) for reply in placement.stream(seen[2:])}
    jax.monitoring.unregister_event_duration_listener(listener)
    placement.close()
    assert len(lengths) > 1
    assert sum(compiled) == 0


@pytest.mark.parametrize("name", ["observe", "think", "perform", "render"])
def test_a_step_that_raises_ends_the_session_with_its_name(name):
    placement = split(1)
    placement.begin(start())
    placement.step(small.observations(CONFIG, 1)[0])

    def fail(*_):
        raise FloatingPointError("on purpose")

    setattr(placement, f"_jit_{name}", fail if name != "perform" else lambda _: fail)
    with pytest.raises(StepError, match=f"{name} of unit 1 failed .*on purpose"):
        placement.step(small.observations(CONFIG, 1)[0])
    placement.close()


@pytest.mark.parametrize("name", ["observe", "think", "perform", "render"])
def test_a_step_that_stalls_is_not_waited_for_without_end(name):
    placement = split(1)
    placement.begin(start())
    placement.step(small.observations(CONFIG, 1)[0])
    release = threading.Event()
    for worker in (placement._thinker, placement._performer):
        worker._stalled_s = 0.3
    stall = lambda *_: release.wait(20)  # noqa: E731
    setattr(placement, f"_jit_{name}", stall if name != "perform" else lambda _: stall)
    with pytest.raises(StepError, match=f"{name} of unit 1 has not ended in 0.3 s"):
        placement.step(small.observations(CONFIG, 1)[0])
    release.set()
    placement.close()


@pytest.mark.parametrize("placed", [lambda: Unified(CONFIG, small.small_params(CONFIG)), lambda: split(2)])
def test_a_skipped_unit_leaves_time_and_no_response(placed):
    """Skipping unit 2 of sessions is living units 0, 1 and 3 at their times, with nothing between."""
    placement, seen = placed(), small.observations(CONFIG, 4)
    placement.begin(start())
    first = [placement.step(u) for u in seen[:2]]
    before = placement._n_tokens.copy()
    placement.skip()
    reply = placement.step(seen[3])
    assert [r.unit for r in (*first, reply)] == [0, 1, 3]
    written = [len(text) + 1 for text in reply.text]
    layout = CONFIG.layout
    least = layout.n_user_media + np.asarray(seen[3].n_text) + np.minimum(written, layout.max_agent_text)
    grown = placement._n_tokens - before
    assert np.all(grown >= least - 1)
    assert np.all(grown <= least)
    placement.close()


def test_solver_steps_may_change_from_unit_to_unit(unified):
    placement, seen = Unified(CONFIG, small.small_params(CONFIG)), small.observations(CONFIG, 3)
    placement.begin(start())
    same, fewer = placement.step(seen[0]), placement.step(seen[1], solver_steps=1)
    np.testing.assert_array_equal(same.frames, unified[0][0].frames)
    assert np.any(fewer.frames != unified[0][1].frames)
    placement.close()


@pytest.mark.parametrize("placed", [lambda: Unified(CONFIG, small.small_params(CONFIG)), lambda: split(2)])
def test_a_session_may_be_closed_while_a_unit_is_being_performed(placed):
    placement = placed()
    placement.begin(start())
    replies = placement.stream(small.observations(CONFIG, 4))
    assert next(replies).unit == 0  # unit 1 is on its way
    placement.close()
    for worker in {placement._thinker, placement._performer}:
        worker.join(20.0)
        assert not worker.is_running


def test_closing_frees_memory():
    before = sum(x.nbytes for x in jax.live_arrays())
    placement = split(2)
    placement.begin(start())
    placement.step(small.observations(CONFIG, 1)[0])
    assert sum(x.nbytes for x in jax.live_arrays()) > before
    placement.close()
    del placement
    assert sum(x.nbytes for x in jax.live_arrays()) <= before


def test_a_full_history_gives_every_reply_first():
    history = dataclasses.replace(CONFIG.history, policy="full")
    config = dataclasses.replace(CONFIG, history=history)
    placement = Unified(config, small.small_params(CONFIG))
    placement.begin(start())
    replies = placement.stream(small.observations(config, 9))
    assert next(replies).unit == 0
    with pytest.raises(HistoryFullError, match=f"of {history.n_tokens} tokens after (.*) units"):
        assert [r.unit for r in replies] == []
    placement.close()


@pytest.mark.parametrize(
    ("ranks", "kv_heads", "indices", "message"),
    [
        (3, 8, None, "3 performer ranks do not divide 8"),
        (0, 8, None, "0 performer ranks"),
        (16, 16, None, "here are 9"),
        (2, 8, [0, 1], "need 3 devices, not 2"),
        (2, 8, [0, 1, 1], "named twice"),
        (1, 8, [0, 9], r"\[9\] are missing"),
    ],
)
def test_impossible_devices_are_one_sentence(ranks, kv_heads, indices, message):
    with pytest.raises(ValueError, match=message):
        choose_devices(ranks, kv_heads, indices)


def test_devices_are_chosen_by_index_or_in_order():
    devices = jax.devices()
    assert choose_devices(2, 8).performer == tuple(devices[1:3])
    chosen = choose_devices(2, 8, [4, 0, 7])
    assert (chosen.thinker, chosen.performer) == (devices[4], (devices[0], devices[7]))


def test_ranks_are_as_many_as_devices_and_heads_allow():
    assert [automatic_ranks(8, n) for n in (1, 2, 3, 4, 5, 8, 9, 20)] == [0, 1, 2, 2, 4, 4, 8, 8]


@pytest.mark.parametrize(("ranks", "n_split"), [(2, 6), (4, 6), (8, 6), (4, 8)])
def test_exchange_there_and_back_is_attention_to_all(ranks, n_split):
    """`Ulysses.attend` over ranks equals `see` of everything, padding left out."""
    n_shared, N, K, H = 2, 16, 8, 4
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (2, n_shared + n_split, N, H))
    k, v = (jax.random.normal(key, (2, K, n_shared + n_split, H)) for key in keys[1:])
    split = Ulysses(AXIS, ranks, n_shared, n_split)

    def see(split, q, k, v):
        return attend(q, k, v, split.real()).values

    def on_a_rank(q, k, v):
        def mine(x, axis):
            shared, rest = jnp.split(x.swapaxes(1, axis), [n_shared], axis=1)
            return jnp.concatenate([shared, split.local(rest)], axis=1).swapaxes(1, axis)

        values = split.attend(functools.partial(see, split), mine(q, 1), mine(k, 2), mine(v, 2))
        return jnp.concatenate([values[:, :n_shared], split.whole(values[:, n_shared:])], axis=1)

    mesh = choose_devices(ranks, 8).performer_mesh()
    spec = jax.sharding.PartitionSpec()
    actual = jax.jit(jax.shard_map(on_a_rank, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))(q, k, v)
    np.testing.assert_allclose(actual, see(Whole(), q, k, v), atol=2e-6)


def test_a_trace_has_a_row_for_each_worker(tmp_path):
    events: list[Event] = []
    workers = [Worker(row, events) for row in ("thinker", "performer")]
    for unit in range(2):
        for worker in workers:
            worker.run("step", unit, lambda: None)
    write_trace(tmp_path / "trace.json", events)
    text = (tmp_path / "trace.json").read_text()
    assert text.count('"ph": "X"') == 4
    assert text.count("thread_name") == 2
