"""Ctrl-C and termination, turned into a request that the loop honours between two passes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class TrainingInterrupted(KeyboardInterrupt):
    """A run was asked to stop and has been saved. Its text says how to continue."""

    def __init__(self, run: Path) -> None:
        super().__init__(f"interrupted; all is saved, continue with: hflab train --resume {run}")
        self.run = run


class Interruption:
    """True once the process was asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def catch_interruption() -> Iterator[Interruption]:
    """While the block runs, SIGINT and SIGTERM only set the yielded flag; a second SIGINT raises `KeyboardInterrupt` at once.

    Launchers pass a Ctrl-C on as SIGINT and SIGTERM, so only a repeated SIGINT counts as impatience. Outside the main thread, where
    Python allows no signal handlers, nothing is caught.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and interruption.requested:
            raise KeyboardInterrupt
        interruption.requested = True

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
