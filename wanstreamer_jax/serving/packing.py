"""Units of the agent as messages, plain or compressed, as the client wants them."""

from wanstreamer_jax.serving import wire
from wanstreamer_jax.serving.codecs import PictureEncoder, SoundEncoder
from wanstreamer_jax.serving.conversation import UnitOut
from wanstreamer_jax.serving.pictures import encode_jpeg
from wanstreamer_jax.timeline import FRAME_MS, UNIT_MS, Picture

KEY_EVERY = 25  # units: 4 s


class Packing:
    """`pack` is for one thread; the client's wishes may come from another, and hold from the next unit on."""

    def __init__(self, picture: Picture) -> None:
        """`picture` is what the agent shows."""
        self._picture = picture
        self._wanted, self._key_wanted = wire.FormsIn(), False
        self._pictures: PictureEncoder | None = None
        self._sound: SoundEncoder | None = None
        self._n_since_key = 0  # units

    def want(self, forms: wire.FormsIn) -> None:
        """The client wants its media so."""
        self._wanted = forms

    def want_key(self) -> None:
        """The client wants a picture that needs none before it, or has missed some."""
        self._key_wanted = True

    def pack(self, out: UnitOut) -> list[bytes]:
        """A unit that follows on the one before, as messages."""
        start_ms, forms = float(out.unit * UNIT_MS), self._wanted
        return [*self._packed_sound(out, start_ms, forms.sound), *self._packed_pictures(out, start_ms, forms.pictures)]

    def _packed_sound(self, out: UnitOut, start_ms: float, form: str) -> list[bytes]:
        if form == "pcm":
            self._sound = None
            return [wire.pack(wire.SOUND, start_ms, wire.pcm16(out.samples))]
        self._sound = self._sound or SoundEncoder()
        packets = self._sound.encode(start_ms, out.samples)
        return [wire.pack(wire.PACKET, time_ms, packet) for time_ms, packet in packets]

    def _packed_pictures(self, out: UnitOut, start_ms: float, form: str) -> list[bytes]:
        times_ms = [start_ms + i * FRAME_MS for i in range(len(out.frames))]
        if form == "jpeg":
            self._pictures = None
            return [
                wire.pack(wire.PICTURE, time_ms, encode_jpeg(frame))
                for time_ms, frame in zip(times_ms, out.frames, strict=True)
            ]
        self._pictures = self._pictures or PictureEncoder(self._picture)
        keys = [self._begins_with_key(), *[False] * (len(out.frames) - 1)]
        encoded = [self._pictures.encode(frame, key=key) for frame, key in zip(out.frames, keys, strict=True)]
        return [
            wire.pack(wire.KEY_PICTURE if picture.key else wire.NEXT_PICTURE, time_ms, picture.data)
            for time_ms, picture in zip(times_ms, encoded, strict=True)
        ]

    def _begins_with_key(self) -> bool:
        """Whether this unit does: because it is wanted, or the last one is long ago."""
        self._n_since_key += 1
        begins = self._key_wanted or self._n_since_key >= KEY_EVERY
        if begins:
            self._key_wanted, self._n_since_key = False, 0
        return begins
