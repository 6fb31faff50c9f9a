"""SIGTERM and Ctrl-C as a wish that a run fulfils between two steps; a second one ends the program at once.

A KeyboardInterrupt may come anywhere, also where Python drops it: in a finaliser or a callback.
"""

import signal
from contextlib import AbstractContextManager
from types import FrameType, TracebackType

_HANDLED = (signal.SIGTERM, signal.SIGINT)


class Signals(AbstractContextManager["Signals"]):
    """Handles both signals from when it is made until it is closed.

    Attributes:
        received: the first of them that came, or none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before = {number: signal.signal(number, self._note) for number in _HANDLED}

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the handlers as they were."""
        self._restore()
