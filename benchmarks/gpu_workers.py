"""Processes that measure, one for each lane: a lane that cannot run says why, and takes no other one with it.

They are started all at once, for most of a start is Python importing, and asked one after the other, so that never two
of them work on the GPU at the same time.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

from gpu_lanes import reason

Answer = dict[str, Any]


class Worker(Protocol):
    """Answers questions about one lane: the methods of gpu_lanes.Bench, by name."""

    def ask(self, method: str, *arguments: object, patience: float) -> Answer:
        """The answer, or why there is none, under ``not_run``; never an error."""
        ...

    def close(self) -> None: ...


class Apart:
    """An object in a process of its own.

    Args:
        make: makes the object there, with ``arguments``.
    """

    def __init__(self, make: Callable[..., object], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._gone: str | None = None  # why it answers no more
        self._process = context.Process(target=_serve, args=(far, make, arguments))
        self._process.start()
        far.close()

    def ask(self, method: str, *arguments: object, patience: float) -> Answer:
        """See Worker; without an answer after ``patience`` s the process is ended."""
        if self._gone is not None:
            return {"not_run": self._gone}
        try:
            self._pipe.send((method, arguments))
            if self._pipe.poll(max(0.0, patience)):
                answer: Answer = self._pipe.recv()
                return answer
            self._gone = f"no answer in {patience:.0f} s"
        except (EOFError, OSError):
            self._process.join(10)
            self._gone = f"its process ended with code {self._process.exitcode}"
        self.close()
        return {"not_run": self._gone}

    def close(self) -> None:
        self._gone = self._gone or "it was closed"
        self._process.kill()
        self._process.join()
        self._pipe.close()


def run_apart(work: Callable[..., Answer], *arguments: object, patience: float) -> Answer:
    """What ``work`` returns in a process of its own, or why it did not, under ``not_run``."""
    worker = Apart(_Work, work)
    try:
        return worker.ask("run", *arguments, patience=patience)
    finally:
        worker.close()


class _Work:
    """A function as an object."""

    def __init__(self, work: Callable[..., Answer]) -> None:
        self.run = work


def _serve(pipe: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    made, failed = None, None
    try:
        made = make(*arguments)
    except Exception as error:  # noqa: BLE001  (whatever a runtime raises is why this was not run)
        failed = reason(error)
    while True:
        try:
            method, details = pipe.recv()
        except EOFError:  # nobody is left to ask
            return
        try:
            pipe.send({"not_run": failed} if failed else getattr(made, method)(*details))
        except Exception as error:  # noqa: BLE001  (the same)
            pipe.send({"not_run": reason(error)})
