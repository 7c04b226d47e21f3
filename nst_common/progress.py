"""Progress of long work: a bar on a terminal, plain lines in a log."""

import sys
import time
from types import TracebackType
from typing import Any, Self, TextIO


class Progress:
    """Counts finished units and shows rate and time left.

    Args:
        total: units of work in all.
        unit: what one unit is called, in the plural ("pictures").
        stream: where to show it; a terminal gets a bar, anything else a line at most every ``interval`` seconds.
        interval: seconds between plain lines.
        done: units that an earlier run already finished; they do not count for the rate.
    """

    def __init__(
        self, total: int, unit: str, *, stream: TextIO | None = None, interval: float = 10.0, done: int = 0
    ) -> None:
        self._total, self._unit, self._interval = total, unit, interval
        self._stream = sys.stderr if stream is None else stream
        self._initial = self._done = done
        self._started = self._last_line = time.monotonic()
        self._bar: Any = self._new_bar() if self._stream.isatty() else None

    def _new_bar(self) -> Any:
        from tqdm import tqdm  # noqa: PLC0415  (a tenth of a cold start, and most runs draw no bar)

        return tqdm(
            total=self._total, initial=self._initial, unit=f" {self._unit}", file=self._stream, dynamic_ncols=True
        )

    def advance(self, count: int = 1, note: str = "") -> None:
        """Marks ``count`` more units as finished; ``note`` stands behind the rate (losses, a file's name)."""
        self._done += count
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= self._interval or self._done == self._total:
            self._last_line = time.monotonic()
            self._stream.write(self._line(note) + "\n")
            self._stream.flush()

    def say(self, message: str) -> None:
        """Shows a message without tearing the bar."""
        if self._bar is not None:
            self._bar.write(message, file=self._stream)
        else:
            self._stream.write(message + "\n")
            self._stream.flush()

    def _line(self, note: str) -> str:
        elapsed = time.monotonic() - self._started
        rate = (self._done - self._initial) / elapsed if elapsed > 0 else 0.0
        left = f"{(self._total - self._done) / rate:.0f} s left" if rate > 0 else "time left unknown"
        line = f"{self._done}/{self._total} {self._unit}, {rate:.3g}/s, {left}"
        return f"{line}, {note}" if note else line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
