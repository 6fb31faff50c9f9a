"""GPUs as their makers describe them, and how much of that a program is expected to get."""

import dataclasses

from wanstreamer_jax.config import Dtype

USABLE_MEMORY = 0.9  # with XLA_PYTHON_CLIENT_MEM_FRACTION=0.9; without it JAX takes 0.75 of a GPU's memory
DEVICES_OF_A_NODE = 8
BYTES = {"bfloat16": 2, "float32": 4}  # of a value


@dataclasses.dataclass(frozen=True)
class GPU:
    """One device of a node whose devices are all linked to each other."""

    name: str
    bf16_flops: float  # FLOP/s of dense bfloat16 products; data sheets print twice as many, with sparsity
    memory_bytes_s: float  # bytes/s to and from its memory
    memory_bytes: float
    link_bytes_s: float  # bytes/s to the other GPUs of the node, in each direction
    network_bytes_s: float = 50e9  # bytes/s to other nodes, in each direction: 400 Gb/s a GPU, as NVIDIA's DGX have it

    @property
    def usable_bytes(self) -> float:
        """Memory that a program may fill."""
        return USABLE_MEMORY * self.memory_bytes

    def bytes_s_among(self, n_devices: int) -> float:
        """Bytes/s of each of so many devices that are neighbours: within a node its links', beyond it the network's."""
        return self.link_bytes_s if n_devices <= DEVICES_OF_A_NODE else self.network_bytes_s

    def peak_flops(self, dtype: Dtype) -> float:
        """FLOP/s of dense products; those of float32 run as TF32, JAX's default, at half the rate of bfloat16."""
        return self.bf16_flops if dtype == "bfloat16" else self.bf16_flops / 2


# NVIDIA's data sheets. H100 and H200: their own, the SXM columns. B200: a DGX B200's (72 PFLOP/s in FP8 with sparsity,
# 64 TB/s, 1,440 GB, 14.4 TB/s of NVLink both ways), divided by its 8 GPUs.
GPUS = {
    "h100": GPU("H100 SXM", 989e12, 3.35e12, 80e9, 450e9),
    "h200": GPU("H200 SXM", 989e12, 4.8e12, 141e9, 450e9),
    "b200": GPU("B200", 2250e12, 8e12, 180e9, 900e9),
}


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """What is expected of a GPU: shares of its peaks, and seconds that no peak accounts for.

    Assumptions, within about 20 % of public runs with blocks of 4,680 tokens (Self-Forcing on an H100 and LingBot-World
    on four, NVIDIA FlashDreams' benchmarks; LingBot-World on H200s, vllm-omni #6672 and #7074). Blocks of fewer than
    128 tokens a rank will do worse. Attention is fused, and splits long histories where queries are few.
    """

    products: float = 0.65
    attention: float = 0.55  # FlashAttention-3 reaches 0.75 of an H100 at its best (arXiv 2407.08608)
    float32: float = 0.32  # of the TF32 peak: Wan2.1-VAE decodes at 158 TFLOP/s on an H100 (sglang #26214)
    memory: float = 0.8
    link: float = 0.7
    product_s: float = 20e-6 / 7  # small kernels around a product; a layer of the Transformer has seven, 20 us
    collective_s: float = 12e-6  # before a collective or a copy to another device begins to move bytes
    token_s: float = 150e-6  # choosing a text token and turning the loop

    def of_products(self, dtype: Dtype) -> float:
        """Share of the peak rate of products in a dtype."""
        return self.products if dtype == "bfloat16" else self.float32


EXPECTED = Efficiency()
PEAK = Efficiency(1.0, 1.0, 1.0, 1.0, 1.0, product_s=0.0, collective_s=0.0, token_s=0.0)
