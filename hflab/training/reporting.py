"""What a person sees while a run goes on: a progress bar on a terminal, plain lines elsewhere. Knows nothing about models.

Everything goes to standard error, so that standard output stays free for results.
"""

import sys
import time
from typing import TextIO

from tqdm import tqdm

PLAIN_LINE_SECONDS = 10.0  # between two plain progress lines


def format_seconds(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Reporter:
    """Shows progress as a share of the budget. Silent where `enabled` is False (every process but the first)."""

    def __init__(self, enabled: bool = True, stream: TextIO | None = None) -> None:
        self.enabled = enabled
        self.stream = stream or sys.stderr
        self.bar: tqdm | None = None
        self.last_plain_line = float("-inf")

    def start(self, title: str, progress: float) -> None:
        """Open the bar at the share `progress` (0 to 1) of the budget."""
        if self.enabled and self.stream.isatty():
            layout = "{desc} {percentage:3.0f}%|{bar:20}|{postfix}"
            self.bar = tqdm(total=1.0, initial=progress, desc=title, bar_format=layout, file=self.stream, dynamic_ncols=True, leave=False)

    def update(self, progress: float, seconds: float, figures: str, *, step: int) -> None:
        """Show `figures` at `progress` after `seconds` of training; the time left follows from both."""
        left = format_seconds(seconds * (1.0 - progress) / progress) if progress > 0 else "?"
        if self.bar is not None:
            self.bar.n = min(progress, 1.0)
            self.bar.set_postfix_str(f"step {step:,} · {figures} · {left} left")
        elif self.enabled and time.monotonic() - self.last_plain_line >= PLAIN_LINE_SECONDS:
            self.last_plain_line = time.monotonic()
            self._print(f"{progress:4.0%} · step {step:,} · {figures} · {left} left")

    def message(self, text: str) -> None:
        """Print `text` above the bar."""
        if self.enabled:
            self._print(text)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _print(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        else:
            self.stream.write(text + "\n")
            self.stream.flush()
