"""Text through our Transformer and our history is Transformers' Qwen3, layer by layer, prefilled and decoded."""

import dataclasses
import functools
import gc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from tests import public, small
from wanstreamer_jax import cache
from wanstreamer_jax.attention import attend, attend_slots, merge, visible
from wanstreamer_jax.convert.qwen3 import FAMILY, transformer_from_qwen3, transformer_to_qwen3
from wanstreamer_jax.model import Latents, wan_streamer
from wanstreamer_jax.presets import QWEN3
from wanstreamer_jax.stream.world import pack_world, stack_slice, world_tokens

BOUND = 1e-5
N_TEXT = (8, 5)  # prefilled tokens of two sessions
N_DECODED = 4
VARIANTS = {
    "tied, GQA": {"tied": True},
    "untied, every head its own": {"tied": False, "num_key_value_heads": 16, "rope_theta": 1e6},
    "tied and said twice, sharded": {"tied": True, "head_copy": True, "num_key_value_heads": 2, "num_hidden_layers": 2},
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def pair(request, tmp_path_factory):
    """A checkpoint's model, and ours with its weights."""
    directory = tmp_path_factory.mktemp("qwen3")
    theirs = public.qwen3(directory, **request.param)
    loaded = public.load("qwen3", directory)
    base = small.small_config()
    config = dataclasses.replace(base, transformer=loaded.config, world=dataclasses.replace(base.world, max_text=8))
    return theirs, config, {"transformer": transformer_from_qwen3(loaded.tensors, config, seed=0)}


def their_layers(model, ids, past=None):
    """Output of every layer [T, D], then logits [T, V]; and their cache."""
    outputs = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, y: outputs.append(y[0] if isinstance(y, tuple) else y))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        result = model(torch.tensor(np.asarray(ids))[None], past_key_values=past, use_cache=True)
    for hook in hooks:
        hook.remove()
    return [x[0].numpy() for x in [*outputs, result.logits]], result.past_key_values


def our_layers(transformer, x, angles, attend_layer):
    """Output of every layer, then logits; and keys and values."""
    outputs, kept = [], []
    for i, block in enumerate(transformer.layers):
        x, own = block(x, angles, None, functools.partial(attend_layer, i))
        outputs.append(x)
        kept.append(own)
    return [*outputs, transformer.text_logits(transformer.norm(x))], kept


@functools.partial(jax.jit, static_argnums=0)
def prefill(config, params, world):
    """Texts of every length as a world: what its tokens see is the attention rule's to say."""
    model = wan_streamer(config, params)
    (h, w), batch = config.picture.latent_grid, len(N_TEXT)
    nothing = Latents(
        jnp.zeros((batch, config.world.max_voice, config.audio_vae.latent_channels)),
        jnp.zeros((batch, h, w, config.video_vae.latent_channels)),
    )
    packed = pack_world(model, world, nothing)
    tokens = world_tokens(config, packed)
    mask = visible(tokens, tokens)
    outputs, kept = our_layers(
        model.transformer, packed.x, packed.angles, lambda _, q, k, v: attend(q, k, v, mask).values
    )
    return outputs, cache.pin_world(cache.init_history(config, batch), stack_slice(kept, packed.n_tokens))


@functools.partial(jax.jit, static_argnums=0)
def decode(config, params, history, token, angles):
    """One token of each session: it sees the history and itself, and is appended."""
    model, ring = wan_streamer(config, params), config.history.n_tokens
    length = cache.n_valid(history, ring)

    def see(layer, q, k, v):
        recalled = attend_slots(q, history.k[layer], history.v[layer], length)
        return merge(recalled, attend(q, k, v, jnp.ones((1, 1, 1), bool))).values

    x = model.transformer.embed_text(token)[:, None]
    outputs, kept = our_layers(model.transformer, x, angles[:, None], see)
    return outputs, cache.append(history, stack_slice(kept, jnp.ones(len(token), jnp.int32)), ring)


def test_every_layer_of_prefill_and_cached_decode_is_qwen3(pair):
    theirs, config, params = pair
    texts = np.random.default_rng(0).integers(0, config.transformer.vocab, (len(N_TEXT), max(N_TEXT) + N_DECODED))
    world = small.a_world(config, n_text=N_TEXT, n_voice=(0, 0), has_portrait=(False, False))
    world = world._replace(text=jnp.asarray(texts[:, : max(N_TEXT)], jnp.int32))
    ours, history = prefill(config, params, world)
    caches = []
    for b, n in enumerate(N_TEXT):
        expected, past = their_layers(theirs, texts[b, :n])
        assert_layers(config, [x[b, :n] for x in ours], expected)
        caches.append(past)
    for i in range(N_DECODED):
        at = np.array(N_TEXT) + i
        token = texts[np.arange(len(N_TEXT)), at]
        ours, history = decode(config, params, history, jnp.asarray(token), small.angles_at(config, at))
        for b in range(len(N_TEXT)):
            expected, caches[b] = their_layers(theirs, token[b : b + 1], caches[b])
            assert_layers(config, [x[b] for x in ours], expected)


def assert_layers(config, ours, theirs):
    assert len(ours) == len(theirs) == config.transformer.layers + 1
    for a, b in zip(ours, theirs, strict=True):
        assert public.error(a, b) <= BOUND


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{"sharded": True}, {"head_copy": True}, {"tied": False}], ids=str)
def test_there_and_back_is_the_same_bits(tmp_path, dtype, options):
    public.qwen3(tmp_path, dtype, **options)
    loaded = public.load("qwen3", tmp_path)
    assert loaded.config.dtype == dtype
    assert {str(x.dtype) for x in loaded.params.values()} == {dtype}
    public.assert_same_bits(public.given_back("qwen3", loaded), loaded.tensors)
    config = dataclasses.replace(small.small_config(), transformer=loaded.config)
    back = transformer_to_qwen3(transformer_from_qwen3(loaded.tensors, config, seed=0), loaded.config)
    copies = {"lm_head.weight"} if "head_copy" in options else set()
    public.assert_same_bits(back, {name: x for name, x in loaded.tensors.items() if name not in copies})


def test_theirs_reads_the_config_that_we_write(tmp_path):
    theirs = public.qwen3(tmp_path, tied=False, rope_theta=5e5, rms_norm_eps=1e-5)
    loaded = public.load("qwen3", tmp_path)
    ids = torch.arange(9)[None]
    again = public.rewritten("qwen3", loaded, tmp_path / "again", transformers.Qwen3ForCausalLM)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)


def test_all_offenders_are_in_one_error(tmp_path):
    public.qwen3(tmp_path, head_copy=True)
    loaded = public.load("qwen3", tmp_path)
    tensors = dict(loaded.tensors) | {
        "model.layers.9.mlp.up_proj.weight": np.zeros((2, 2), np.float32),
        "model.norm.weight": np.zeros(3, np.float32),
        "model.layers.0.input_layernorm.weight": np.zeros(64, np.int32),
    }
    del tensors["model.layers.1.self_attn.q_norm.weight"]
    assert public.offenders("qwen3", loaded, tensors, ("lm_head.weight",)) == [
        "duplicate lm_head.weight",
        "unknown model.layers.9.mlp.up_proj.weight",
        "missing model.layers.1.self_attn.q_norm.weight",
        "model.layers.0.input_layernorm.weight: int32, expected float32, bfloat16 or float16",
        "model.norm.weight: shape (3,), expected (64,)",
    ]
    other = dict(loaded.tensors) | {"lm_head.weight": np.zeros((512, 64), np.float32)}
    assert public.offenders("qwen3", loaded, other) == [
        "lm_head.weight: differs from model.embed_tokens.weight, with which it is tied"
    ]


def test_what_we_do_not_have_is_refused_all_at_once():
    tensors = {str(i): np.zeros(1, np.float32) for i in range(100)}
    raw = FAMILY.write_config(QWEN3["8b"])
    assert FAMILY.read_config(raw, tensors) == dataclasses.replace(QWEN3["8b"], dtype="float32")
    raw |= {
        "attention_bias": True,
        "hidden_act": "gelu",
        "num_hidden_layers": 10**9,
        "num_key_value_heads": 7,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
        "use_sliding_window": True,
        "vocab_size": "many",
    }
    with pytest.raises(ValueError, match="not supported") as wrong:
        FAMILY.read_config(raw, tensors)
    said = str(wrong.value)
    for name in raw:
        offends = name in ("attention_bias", "hidden_act", "num_hidden_layers", "use_sliding_window", "vocab_size")
        assert (f"\n  {name}:" in said) == (offends or name == "num_attention_heads")
    assert "rope_scaling.rope_type: 'yarn'" in said


@pytest.mark.parametrize(
    "rope",
    [{"rope_theta": 1000000}, {"rope_theta": 3.0, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}],
)
def test_rope_theta_of_both_generations_of_transformers(rope):
    tensors = {str(i): np.zeros(1, ml_dtypes.bfloat16) for i in range(311)}
    raw = {k: v for k, v in FAMILY.write_config(QWEN3["0.6b"]).items() if not k.startswith("rope_")}
    assert FAMILY.read_config(raw | rope, tensors) == QWEN3["0.6b"]


def test_published_size():
    """Qwen3-0.6B in float32, every layer of it."""
    model = meta_model(FAMILY.write_config(QWEN3["0.6b"]))
    ids = np.array([1, 151_643, 7])
    expected, _ = their_layers(model, ids)
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    cfg = FAMILY.read_config(model.config.to_dict(), tensors)
    assert cfg == dataclasses.replace(QWEN3["0.6b"], dtype="float32")
    config = dataclasses.replace(small.small_config(), transformer=cfg)
    params = transformer_from_qwen3(tensors, config, seed=0)
    del model, tensors
    gc.collect()
    assert_layers(config, our_layers_one_by_one(config, params, ids), expected)


def our_layers_one_by_one(config, params, ids):
    """Outputs without a batch; all layers are one program, which is compiled once."""
    transformer = wan_streamer(config, {"transformer": params}).transformer
    angles = small.angles_at(config, np.arange(len(ids)))[None]
    causal = jnp.tril(jnp.ones((1, len(ids), len(ids)), bool))

    @functools.partial(jax.jit, static_argnums=0)
    def run(graph, state, x):
        return nnx.merge(graph, state)(x, angles, None, lambda q, k, v: attend(q, k, v, causal).values)[0]

    outputs = [transformer.embedding[...][ids][None]]
    for block in transformer.layers:
        outputs.append(run(*nnx.split(block), outputs[-1]))
    logits = transformer.norm(outputs[-1]) @ transformer.embedding[...].T
    return [x[0] for x in [*outputs[1:], logits]]


def meta_model(raw):
    """Their model with noise for weights, never initialised, which would take longer than all the rest."""
    config = transformers.Qwen3Config(**raw)
    with torch.device("meta"):
        model = transformers.Qwen3ForCausalLM(config)
    model = model.to_empty(device="cpu").float().eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its frequencies are no parameter
    model.tie_weights()
    public.draw(model)
    return model
