"""Packets of RTP put in order, and frames made of them: nothing waits longer than a moment for what may be lost.

sequence      7   8   9   .  11  12            a frame is all packets from `is_first` to `is_last`
[ frame ]   |   [ frame ]         10 is missing: after `wait_ms`, 11 goes without it
"""

from typing import NamedTuple

WAIT_MS = 40.0  # for a packet that others have overtaken
MOST_PACKETS = 512  # held
FARTHEST = 1 << 12  # a sequence that leaps farther than this has begun anew
_MODULUS = 1 << 16


class Packet(NamedTuple):
    """A packet of RTP: its place, and what it carries."""

    sequence: int  # modulo 2**16
    timestamp: int
    is_first: bool  # of its frame
    is_last: bool
    data: bytes


class Frame(NamedTuple):
    """A frame as its decoder takes it."""

    timestamp: int
    data: bytes


class _Held(NamedTuple):
    packet: Packet
    came_ms: float


class JitterBuffer:
    """One stream's packets. `now_ms` is of any clock that does not go back."""

    def __init__(self, wait_ms: float = WAIT_MS, most_packets: int = MOST_PACKETS):
        self.n_skipped = 0  # times that something was given up
        self._wait_ms, self._most = wait_ms, most_packets
        self._held: dict[int, _Held] = {}  # by place: a sequence number that goes on counting
        self._next: int | None = None  # the place of the packet that comes next

    def put(self, packet: Packet, now_ms: float) -> None:
        """Hold a packet, unless it comes too late or again."""
        at = self._place(packet.sequence)
        if self._next is None:
            self._next = at
        elif abs(at - self._next) > FARTHEST:
            self._held.clear()
            self._next = at
            self.n_skipped += 1
        if at >= self._next:
            self._held.setdefault(at, _Held(packet, now_ms))

    def take(self, now_ms: float) -> list[Frame]:
        """All frames whose turn it is."""
        frames = []
        while self._held:
            frame = self._complete()
            if frame is not None:
                frames.append(frame)
            elif not self._skip(now_ms):
                break
        return frames

    @property
    def due_ms(self) -> float | None:
        """When `take` will give up what is missing; None while nothing is."""
        behind = self._behind_a_gap()
        return min(held.came_ms for held in behind.values()) + self._wait_ms if behind else None

    def _place(self, sequence: int) -> int:
        if self._next is None:
            return sequence
        ahead = (sequence - self._next) % _MODULUS
        return self._next + (ahead if ahead < _MODULUS // 2 else ahead - _MODULUS)

    def _complete(self) -> Frame | None:
        """The next frame, if all of it is there; it is not held any more."""
        packets = self._run()
        if not packets or not packets[0].is_first:
            return None
        begun = [packet.is_first for packet in packets[1:]] + [False]  # a frame ends where another begins
        n = next((i + 1 for i, packet in enumerate(packets) if packet.is_last or begun[i]), None)
        if n is None:
            return None
        self._let_go(n)
        return Frame(packets[0].timestamp, b"".join(packet.data for packet in packets[:n]))

    def _run(self) -> list[Packet]:
        """What is there without a gap, from the next place on."""
        assert self._next is not None
        packets, at = [], self._next
        while at in self._held:
            packets.append(self._held[at].packet)
            at += 1
        return packets

    def _let_go(self, n: int) -> None:
        assert self._next is not None
        for at in range(self._next, self._next + n):
            self._held.pop(at, None)
        self._next += n

    def _behind_a_gap(self) -> dict[int, _Held]:
        if self._next is None:
            return {}
        gap = self._next + len(self._run())
        return {at: held for at, held in self._held.items() if at > gap}

    def _skip(self, now_ms: float) -> bool:
        """Give up what cannot become a frame any more; whether something was."""
        assert self._next is not None
        run = self._run()
        if run and not run[0].is_first:  # the rest of a frame whose beginning was given up
            self._let_go(next((i for i, packet in enumerate(run) if packet.is_first), len(run)))
            return True
        due_ms = self.due_ms
        if len(self._held) <= self._most and (due_ms is None or now_ms < due_ms):
            return False
        begins = [at for at, held in self._held.items() if at > self._next and held.packet.is_first]
        self._let_go(min(begins, default=max(self._held) + 1) - self._next)
        self.n_skipped += 1
        return True
