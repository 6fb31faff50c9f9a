"""What a compiled program exchanges between devices, read from its HLO."""

import re
from typing import NamedTuple

ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
COLLECTIVE = re.compile(r" = (\(.*?\)|\S+) (all-to-all|all-gather|all-reduce|reduce-scatter|collective-permute)\(")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
LOOP_BODY = re.compile(r"\bbody=%?([\w.\-]+)")


class Exchange(NamedTuple):
    """What one rank takes part in, in one run of a program."""

    counts: dict[str, int]  # of each kind of collective
    sent_bytes: float


def exchange(hlo: str, ranks: int, loop_turns: int) -> Exchange:
    """Collectives of a program whose loops all turn `loop_turns` times."""
    bodies = set(LOOP_BODY.findall(hlo))
    counts: dict[str, int] = {}
    sent, turns = 0.0, 1
    for line in hlo.splitlines():
        if header := COMPUTATION.match(line):
            turns = loop_turns if header[1] in bodies else 1
        elif found := COLLECTIVE.search(line):
            shape, kind = found.groups()
            counts[kind] = counts.get(kind, 0) + turns
            sent += turns * sent_share(kind, ranks) * shape_bytes(shape)
    return Exchange(counts, sent)


def sent_share(kind: str, ranks: int) -> float:
    """Bytes that a rank sends to others for each byte of its result, by ring algorithms."""
    others = (ranks - 1) / ranks
    return {"all-reduce": 2 * others, "reduce-scatter": ranks - 1, "collective-permute": 1}.get(kind, others)


def shape_bytes(shape: str) -> int:
    """Bytes of an array or a tuple of arrays, as HLO writes its type: `f32[2,16]{1,0}`."""
    total = 0
    for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shape):
        n = 1
        for size in filter(None, sizes.split(",")):
            n *= int(size)
        total += n * ITEM_BYTES[dtype]
    return total
