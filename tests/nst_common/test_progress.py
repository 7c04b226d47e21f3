import io
import time

import pytest

from nst_common.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_a_log_gets_lines_of_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), io.StringIO()
    with Progress(10, "pictures", stream=log, interval=10, done=2) as progress:
        for _ in range(4):
            clock.now += 5
            progress.advance(note="n")
    # 2 of the 8 that are left after 10 s, then 4 after 20 s: what an earlier run did says nothing of the rate
    assert log.getvalue() == "4/10 pictures, 0.2/s, 30 s left, n\n6/10 pictures, 0.2/s, 20 s left, n\n"


def test_the_end_is_always_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), io.StringIO()
    with Progress(2, "steps", stream=log) as progress:
        clock.now += 0.5
        progress.advance(2)
    assert log.getvalue() == "2/2 steps, 4/s, 0 s left\n"


def test_a_message_stands_on_a_line_of_its_own() -> None:
    log = io.StringIO()
    with Progress(2, "steps", stream=log) as progress:
        progress.say("hello")
    assert log.getvalue() == "hello\n"


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    with Progress(3, "pictures", stream=terminal) as progress:
        progress.advance(note="a.jpg")
        progress.say("hello")
        progress.advance(2)
    shown = terminal.getvalue()
    assert "3/3" in shown
    assert "hello\n" in shown
    assert "pictures" in shown
