"""Passes of the Transformer as arithmetic and traffic, and the time that a device needs for them.

    T tokens of a pass   S keys of the history   R ranks   L layers   N heads   K key/value heads   H head size
    D width   F mlp width   V vocabulary   W weights of all blocks   b bytes a value

    W = L (2 D N H + 2 D K H + 3 D F)

                          a pass on one device     a solver step on one of R ranks
    products              2 W T                    2 W T / R             FLOP
    attention             4 L N H T (S + T)        the same / R          FLOP
    weights               b W                      b W                   bytes: Ulysses splits tokens, not weights
    history               2 b L K H S              the same / R          bytes

    seconds = max(products / FLOP/s, weights / bytes/s) + max(attention / FLOP/s, history / bytes/s)

Embeddings, norms, adaLN and the latents' projections are left out: a hundredth of the whole.
"""

import dataclasses

from wanstreamer_jax.config import Dtype, TransformerConfig
from wanstreamer_jax.planning.costs import Cost
from wanstreamer_jax.planning.hardware import BYTES, GPU, Efficiency


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in one pass."""

    products_flop: float
    attention_flop: float
    weight_bytes: float
    history_bytes: float
    n_products: int
    dtype: Dtype

    @property
    def flop(self) -> float:
        """All its arithmetic."""
        return self.products_flop + self.attention_flop

    @property
    def bytes(self) -> float:
        """All that must come from memory."""
        return self.weight_bytes + self.history_bytes

    def __mul__(self, times: int) -> "Work":
        """The same, so many times over."""
        return Work(
            times * self.products_flop,
            times * self.attention_flop,
            times * self.weight_bytes,
            times * self.history_bytes,
            times * self.n_products,
            self.dtype,
        )

    def seconds(self, gpu: GPU, share: Efficiency) -> float:
        """How long it takes with such shares of the peaks of a GPU."""
        flops, memory = gpu.peak_flops(self.dtype), share.memory * gpu.memory_bytes_s
        products = self.products_flop / (share.of_products(self.dtype) * flops)
        attention = self.attention_flop / (share.attention * flops)
        return (
            max(products, self.weight_bytes / memory)
            + max(attention, self.history_bytes / memory)
            + self.n_products * share.product_s
        )


def block_weights(t: TransformerConfig) -> int:
    """W: weights of all blocks."""
    return t.layers * t.width * (2 * t.head_size * (t.heads + t.kv_heads) + 3 * t.mlp)


def transformer_parameters(t: TransformerConfig, audio_channels: int, video_channels: int) -> int:
    """All parameters of the Transformer, with what it reads and writes latents of so many channels with."""
    D = t.width
    norms_and_adaln = 2 * D + 2 * t.head_size + 2 * 6 * D  # adaLN: six vectors for each of two kinds of latents
    latents = sum(2 * channels * D + D + channels for channels in (audio_channels, video_channels))
    flow_time = D * D + D + 6 * D * D + 6 * D
    text = t.vocab * D * (1 if t.tied else 2)
    return block_weights(t) + t.layers * norms_and_adaln + D + latents + flow_time + text


def kv_bytes(t: TransformerConfig) -> int:
    """Bytes of one token's keys and values: 2 b L K H."""
    return 2 * BYTES[t.dtype] * t.layers * t.kv_heads * t.head_size


def reading(t: TransformerConfig, T: int, S: int) -> Work:
    """A pass of T tokens that see S of history, and each other."""
    return solver_step(t, T, 0, S, R=1)


def writing(t: TransformerConfig, S: int) -> Work:
    """A text token: a pass of one token, and the head's scores."""
    one, head = reading(t, 1, S), t.vocab * t.width
    return dataclasses.replace(
        one, products_flop=one.products_flop + 2 * head, weight_bytes=one.weight_bytes + BYTES[t.dtype] * head
    )


def solver_step(t: TransformerConfig, split: int, whole: int, S: int, R: int) -> Work:
    """What one of R ranks does for tokens that are split over the ranks, and others that every rank has whole."""
    W, T = block_weights(t), split + whole
    return Work(
        products_flop=2 * W * (split / R + whole),
        attention_flop=4 * t.layers * t.heads * t.head_size * T * (S + T) / R,
        weight_bytes=float(BYTES[t.dtype] * W),
        history_bytes=kv_bytes(t) * S / R,
        n_products=7 * t.layers,  # q, k, v, o, gate, up, down
        dtype=t.dtype,
    )


def float32_part(cost: Cost) -> Work:
    """A part around the Transformer, which keeps its weights in float32."""
    return Work(float(cost.flop), 0.0, float(BYTES["float32"] * cost.parameters), 0.0, cost.n_products, "float32")


def exchanged_bytes(t: TransformerConfig, split: int, whole: int, R: int) -> float:
    """Bytes that a rank sends in the two all-to-alls of a layer.

    There: queries, keys and values of its share of the split tokens. Back: what the others' share, and the tokens
    that all have whole, saw with its heads.
    """
    values = split / R * 2 * (t.heads + t.kv_heads) + whole * t.heads
    return BYTES[t.dtype] * values * t.head_size * (R - 1) / R
