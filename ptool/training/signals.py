"""SIGINT, SIGTERM and SIGUSR1 in a rank: a flag, polled once a step; a second one ends the process.

The handlers are installed before anything heavy is imported, and only then does a rank announce itself
(launch.py passes nothing on before): no signal is lost and none kills a rank that could have saved. A deadline
(deadlines.py) asks for the same. Torch-free.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from ptool.training.deadlines import Deadline

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SECOND_AFTER_SECONDS = 1.0  # a terminal, a shell and a batch system may all deliver one and the same request


class StopRequest:
    """Whether somebody asked this process to save and stop, or its time is over."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.deadline: Deadline | None = None
        self._since = 0.0

    @property
    def reason(self) -> str | None:
        """Why this process should save and stop; None while it should not."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        return None if self.deadline is None else self.deadline.reason()

    def listen(self) -> None:
        """Install the handlers, and let signals in that whoever started this process had blocked."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
        elif number != signal.SIGUSR1 and time.monotonic() - self._since > SECOND_AFTER_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
