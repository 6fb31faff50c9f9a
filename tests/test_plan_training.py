"""The planner of training: what the compiled step holds, what the traced one computes, and choices that cannot be."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from tests.small import small_config
from wanstreamer_jax import attention_tiles, plan
from wanstreamer_jax.config import Config
from wanstreamer_jax.planning.hardware import GPUS
from wanstreamer_jax.planning.step import batch_of, parts_of, trace_layers, trace_step
from wanstreamer_jax.planning.training import meshes, plan_training, training_floor, training_memory
from wanstreamer_jax.timeline import Picture
from wanstreamer_jax.training.config import MeshShape, SessionWeights, Training
from wanstreamer_jax.training.sharding import batch_sharding, make_mesh, replicated, shard_tree
from wanstreamer_jax.training.stages import interact
from wanstreamer_jax.training.step import Program

TILE = 16  # queries: as small beside a session as tiles are
UNITS, PICTURE = 4, Picture(96, 96)  # enough latents to outweigh the samples of the user's sound, as real agents have
# What a GPU's compiler does too: rematerialisation stays what it is until instructions have their order. XLA:CPU
# drops the barriers first, finds what is computed again equal to what was computed, and keeps it.
# The other two only make it compile faster.
AS_ON_A_GPU = {
    "xla_disable_hlo_passes": "cse_barrier_expander",
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@pytest.fixture(autouse=True, scope="module")
def small_tiles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_tiles, "TILE", TILE)
        yield


def agent(width: int, layers: int, dtype: str = "float32") -> Config:
    base = small_config()
    sizes = {"width": width, "mlp": 2 * width, "layers": layers, "heads": 8, "vocab": 257, "dtype": dtype}
    text = dataclasses.replace(base.text, unit_end=256)
    transformer = dataclasses.replace(base.transformer, **sizes)
    return dataclasses.replace(base, transformer=transformer, text=text, picture=PICTURE)


def settings(mesh=(1, 1, 1), batch=8, **changes) -> Training:
    return Training(weights=SessionWeights(units=UNITS), batch=batch, mesh=MeshShape(*mesh), **changes)


@functools.cache
def step_of(config: Config, training: Training):
    return trace_step(config, training)


def planned(config: Config, training: Training):
    anywhere = dataclasses.replace(training, mesh=MeshShape(), batch=1)
    return training_memory(config, training, step_of(config, anywhere))


def compiled(config: Config, training: Training):
    """The training step as the loop compiles it, from shapes."""
    program = Program(interact.stage, config, training, make_mesh(training.mesh))
    trainees, frozen = parts_of(config)
    state = jax.eval_shape(program.init, trainees[interact.AGENT])
    shardings = program.shardings(state)
    batch = batch_of(config, UNITS, training.batch)
    over = batch_sharding(program.mesh, program.stage.batch_axes)
    given = _placed(state, shardings), _placed(frozen, shard_tree(program.mesh, frozen)), _placed(batch, over)
    step = functools.partial(program.train_step, due=(0,))
    out = shardings, replicated(program.mesh)
    with attention_tiles.traced_for("gpu"):
        lowered = jax.jit(step, donate_argnums=0, out_shardings=out).lower(*given)
    return lowered.compile(AS_ON_A_GPU).memory_analysis()


def _placed(shapes, sharding):
    shardings = sharding if isinstance(sharding, type(shapes)) else jax.tree.map(lambda _: sharding, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


@pytest.mark.parametrize(
    ("width", "layers", "mesh", "batch", "changes"),
    [
        (64, 2, (1, 1, 4), 8, {}),
        (128, 2, (1, 8, 1), 16, {"ema": 0.9}),
        (128, 2, (2, 2, 2), 16, {}),
        (64, 2, (8, 1, 1), 16, {"compute": "bfloat16"}),
    ],
)
def test_a_device_holds_what_the_compiler_says(width, layers, mesh, batch, changes):
    config, training = agent(width, layers, changes.get("compute", "float32")), settings(mesh, batch, **changes)
    found, ours = compiled(config, training), planned(config, training)
    total = (
        found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
    )
    assert ours.total - ours.frozen == pytest.approx(total, rel=0.1)  # a step that has its latents reads no VAE


# ---- What it is made of


@pytest.mark.parametrize("remat", ["layers", "elementwise"])
def test_many_layers_are_what_one_and_two_say(remat):
    config, training = agent(64, 5), settings(remat=remat)
    step, whole = trace_step(config, training), trace_layers(config, training)
    assert step.flop == whole.flop
    for windows, gradients in ((1.0, 1.0), (4.0, 0.125)):
        assert sum(step.peak(windows, gradients)) == pytest.approx((whole.alive @ [windows, gradients]).max(), rel=0.02)


def test_in_the_end_all_gradients_are_alive_in_float32():
    config = agent(64, 40, "bfloat16")  # of many layers: these are the most that is ever alive
    step = step_of(config, settings(batch=1, mesh=(), compute="bfloat16"))
    n_parameters = sum(x.size for x in jax.tree.leaves(parts_of(config)[0]))
    window, gradients = step.peak(0.1, 1.0)
    assert gradients == pytest.approx(4 * n_parameters, rel=0.02)
    assert window < 0.1 * gradients


def test_computing_a_layer_again_saves_what_is_inside_it():
    """Of each further layer its input stays, and of its attention values and log-sum-exp."""
    config = agent(64, 2)
    (one, two), sizes = step_of(config, settings(batch=1, mesh=())).phases[0], config.transformer
    n_slots = config.n_world + UNITS * (config.layout.n_slice + config.layout.n_agent_media)
    kept = 4 * n_slots * (sizes.width + sizes.heads * (sizes.head_size + 1))
    assert two[:, 0].max() - one[:, 0].max() == pytest.approx(kept, rel=0.1)


def test_time_is_shared_out_and_bound_by_the_longest():
    config, gpu = agent(64, 2), GPUS["h200"]
    step = step_of(config, settings(batch=1, mesh=()))

    def floor(mesh, **changes):
        return training_floor(config, gpu, settings(mesh, **changes), step)

    alone, data, fsdp, ulysses = (floor(mesh) for mesh in ((1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8)))
    assert {round(alone.products / x.products) for x in (data, fsdp, ulysses)} == {8}
    assert (alone.fsdp, alone.data, alone.ulysses) == (0, 0, 0)
    assert fsdp.fsdp == pytest.approx(data.data)  # gathered and scattered is what an all-reduce is
    assert ulysses.ulysses > 0
    assert floor((1, 8, 1), accumulation=1).fsdp < floor((1, 8, 1), batch=32, accumulation=4).fsdp
    assert alone.ms == max(alone.products, alone.memory)
    assert getattr(alone, alone.binding) == alone.ms


def test_between_nodes_the_network_counts():
    gpu = GPUS["h200"]
    assert gpu.bytes_s_among(8) == gpu.link_bytes_s > gpu.bytes_s_among(16)


def test_a_mesh_uses_every_device_once():
    for n_devices in (1, 6, 8, 64, 256):
        found = [(m.data, m.fsdp, m.ulysses) for m in meshes(n_devices)]
        assert {np.prod(m) for m in found} == {n_devices}
        assert len(set(found)) == len(found)


# ---- The program

EXAMPLE = "--train --preset tests/small_preset.py --gpu h200 --devices 8 --units 2 --compute float32"


def test_the_table_and_json_tell_the_same(capsys):
    assert plan.main(EXAMPLE.split()) == 0
    table = capsys.readouterr().out
    assert plan.main([*EXAMPLE.split(), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["8"]
    assert len(rows) == table.count("\n") - 5
    for row in rows:
        assert f"{row['total'] / 1e9:.1f}" in table
        assert row["bound_by"] in table


def test_a_mesh_that_cannot_be_says_why():
    config, training = agent(64, 2), settings(batch=4)
    step = step_of(config, settings(batch=1, mesh=()))
    rows = plan_training(config, GPUS["h100"], 8, training, step)
    found = {(r.mesh.data, r.mesh.fsdp, r.mesh.ulysses): r.impossible for r in rows}
    assert found[8, 1, 1] == "batch 4 does not divide by data x fsdp x accumulation = 8"
    assert found[4, 1, 2] == ""
    small = dataclasses.replace(GPUS["h100"], memory_bytes=1e6)
    full = plan_training(config, small, 8, settings(batch=8), step)
    assert all(row.impossible.startswith("does not fit") for row in full)
    odd = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, heads=15, kv_heads=5))
    (why,) = {r.impossible for r in plan_training(odd, small, 8, training, step) if r.mesh.ulysses == 8}
    assert why == "5 key/value heads do not divide by ulysses 8"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--devices 8", "--devices 0"), "--devices 0: at least 1"),
        (("--devices 8", ""), "--devices is missing"),
        (("--train", ""), "--devices is for --train"),
        (("--units 2", "--ranks 2"), "--ranks is for a deployment, not for --train"),
        (("--units 2", "--batch 0"), "--batch 0: at least 1"),
        (("--units 2", "--ema 1"), "--ema 1.0: at least 0 and less than 1"),
        (("h200", "h20"), "did you mean 'h200'?"),
        (("tests/small_preset.py", "tinny"), "did you mean 'tiny'?"),
    ],
)
def test_an_impossible_choice_is_one_sentence(assert_refused, change, sentence):
    assert_refused(plan.main(EXAMPLE.replace(*change).split()), sentence)
