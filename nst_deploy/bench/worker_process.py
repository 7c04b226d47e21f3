"""Starting workers and asking them."""

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any, Self

from nst_deploy.bench.worker import Assignment


class WorkerFailedError(Exception):
    """A worker ended instead of answering; the message is for the user."""


class Worker:
    """The process of one ``Assignment``; see nst_deploy.bench.worker."""

    def __init__(self, assignment: Assignment) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nst_deploy.bench.worker", json.dumps(dataclasses.asdict(assignment))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.started: dict[str, Any] = {}
        self.samples: list[dict[str, Any]] = []

    def start(self) -> None:
        """Waits until the engine is open and has run once."""
        self.started = self._answer()

    def run(self) -> None:
        """One timed run."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerFailedError(self._why_it_ended()) from error
        self.samples.append(self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailedError(self._why_it_ended())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailedError(answer["error"])
        return answer

    def _why_it_ended(self) -> str:
        code = self._process.wait()
        if code == -getattr(signal, "SIGKILL", 9):
            return "it was killed, most likely for want of memory"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return f"it ended with code {code}" + (f": {lines[-1]}" if lines else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
