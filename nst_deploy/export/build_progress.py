"""A build that can be watched, and stopped with Ctrl-C."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from nst_common.progress import Progress

Result = TypeVar("Result")
SIGNAL_INTERVAL = 0.2  # s between looks for Ctrl-C, which does not end a wait on Windows


class BuildWatch:
    """What a library says of its build, in steps of its outermost phase; thread-safe, as the library demands.

    Attributes:
        cancelled: once it is true, the build stops at its next step.
    """

    def __init__(self, name: str) -> None:
        self.cancelled = False
        self._name = name
        self._lock = threading.Lock()
        self._outer: str | None = None
        self._inner: dict[str, int] = {}  # phase -> number of its steps, in the order in which they began
        self._progress: Progress | None = None

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            if self._progress is None:
                self._outer = phase
                self._progress = Progress(steps, f"steps of {self._name}")
                self._progress.__enter__()
            elif phase != self._outer:
                self._inner[phase] = steps

    def step_complete(self, phase: str, step: int) -> bool:
        """Whether to go on."""
        with self._lock:
            if self._progress is not None:
                if phase == self._outer:
                    self._progress.advance()
                elif phase in self._inner:
                    # The outermost phase has few steps, and one of them takes nearly all of the time.
                    self._progress.advance(0, f"{phase.lower()} {step + 1}/{self._inner[phase]}")
        return not self.cancelled

    def phase_finish(self, phase: str) -> None:
        with self._lock:
            self._inner.pop(phase, None)
            if phase == self._outer:
                self._close()

    def close(self) -> None:
        """Takes the bar away, also when the build ended before its last step."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
        self._progress = None


def run_watched(name: str, trt: Any, build: Callable[[Any], Result]) -> Result:
    """Runs ``build(monitor)``, where ``monitor`` is the library's ``IProgressMonitor``, and shows how far it is.

    The build runs in a thread of its own: in this one a signal would not be seen before the build ended. On Ctrl-C it
    is told to stop, waited for, and the interruption raised.

    Args:
        name: what is built.
        trt: tensorrt or tensorrt_rtx.
    """
    watch = BuildWatch(name)
    monitor = _new_monitor(trt, watch)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="build")
    known = threading.Event()  # the pool knows the thread, and will wait for it

    def start() -> Result:
        known.wait()
        if watch.cancelled:
            raise KeyboardInterrupt
        return build(monitor)

    try:
        future = pool.submit(start)
        known.set()
        while not future.done():
            wait([future], SIGNAL_INTERVAL)
        return future.result()
    except BaseException:
        watch.cancelled = True
        raise
    finally:
        known.set()
        pool.shutdown()  # waits for it
        watch.close()


def _new_monitor(trt: Any, watch: BuildWatch) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.phase_start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step_complete(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            watch.phase_finish(phase_name)

    return Monitor()
