"""What a training shows while it runs: progress, TensorBoard scalars, sample pictures. For rank 0 only."""

import itertools
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from nst_common.atomic_file import CannotWriteError, atomic_write
from nst_common.progress import Progress
from nst_train.data import UNREADABLE, decode
from nst_train.errors import SampleUnreadableError
from nst_train.log_folder import as_text, claim_log_folder
from nst_train.objective import ObjectiveValue
from nst_train.trainer import StepReport, Trainer
from nst_train.transform_net import MIN_SIZE

SAMPLE_SIDE = 512  # px, the shorter side of a sample at most: a glance, not a print
SCALARS_EVERY = 10  # steps


class Monitor:
    """Follows one training; call it with every report.

    Attributes:
        folder: where it logs.

    Raises:
        SampleUnreadableError: a picture given with --sample cannot be read, or is too small.
        LogFolderError: the log's folder cannot be made.
    """

    def __init__(self, trainer: Trainer) -> None:
        config = trainer.config
        self._trainer = trainer
        self._samples = _read_samples(trainer) if config.sample_every else {}
        self.folder = claim_log_folder(config.log_dir, config.out, resumed=trainer.step > 0)
        self._logs = True
        self._announced = 0  # of the unreadable files
        self.progress = Progress(config.steps, "steps", done=trainer.step)
        self._writer = self._open_writer()

    def _open_writer(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (optional, and slow to import)
        except ImportError:
            self.progress.say("TensorBoard is not installed, training goes on without it (pip install tensorboard)")
            return None
        return SummaryWriter(self.folder, purge_step=self._trainer.step + 1)

    def __call__(self, report: StepReport) -> None:
        """Shows the report, logs it where it is due, and names files that turned out unreadable."""
        note = f"content {report.content:.3f}, style {report.style:.4f}, total {report.total:.3f}"
        self.progress.advance(note=note)
        self.name_skipped()
        with self._forgiving():
            self._log(report)

    def _log(self, report: StepReport) -> None:
        if not self._logs:
            return
        config = self._trainer.config
        last = report.step == config.steps
        if self._writer is not None and (report.step % SCALARS_EVERY == 0 or last):
            self._write_scalars(report)
        if config.sample_every and (report.step % config.sample_every == 0 or last):
            self._write_samples(report.step)

    def name_skipped(self) -> None:
        """Names the photographs that were found unreadable since the last call."""
        skipped = self._trainer.pictures.skipped[self._announced :]
        self._announced += len(skipped)
        if skipped:
            names = ", ".join(str(path) for path in skipped[:5])
            more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
            self.progress.say(f"Skipped {self._announced} unreadable photograph(s): {names}{more}")

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """A log that can no longer be written, as on a full disk, is said once and does not end the training."""
        try:
            yield
        except (OSError, CannotWriteError) as error:
            reason = error.problem if isinstance(error, CannotWriteError) else f"Cannot write the log: {error}"
            if self._logs:
                self.progress.say(f"{reason}; the training goes on without a log")
            self._logs = False

    def _write_scalars(self, report: StepReport) -> None:
        for name in ObjectiveValue._fields:
            self._writer.add_scalar(f"loss/{name}", getattr(report, name), report.step)
        self._writer.add_scalar("optimizer/learning_rate", report.lr, report.step)
        self._writer.add_scalar("optimizer/gradient_norm", report.grad_norm, report.step)

    def _write_samples(self, step: int) -> None:
        folder = self.folder / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in self._samples.items():
            styled = self._trainer.stylize(picture)  # uint8 [3, H, W]
            with atomic_write(folder / f"{name}_{step:06d}.jpg") as partial:
                Image.fromarray(styled.permute(1, 2, 0).numpy()).save(partial, "JPEG", quality=92)
            if self._writer is not None:
                self._writer.add_image(f"sample/{name}", styled, step)

    def __enter__(self) -> Self:
        self._hook = threading.excepthook
        threading.excepthook = self._excepthook
        self.progress.__enter__()
        return self

    def _excepthook(self, failure: threading.ExceptHookArgs) -> None:
        # TensorBoard's writing thread also passes its error on to the next call, where it is dealt with.
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")):
            self._hook(failure)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._forgiving():
            if self._writer is not None:
                self._writer.close()
        threading.excepthook = self._hook
        self.progress.__exit__(kind, error, traceback)


def _read_samples(trainer: Trainer) -> dict[str, Tensor]:
    """The pictures given with --sample by name, or else the first photograph trained on that is large enough."""
    samples: dict[str, Tensor] = {}
    for path in trainer.config.sample:
        samples[_free_name(as_text(path.stem), samples)] = _read_sample(path)
    if not samples:
        photographs = (trainer.pictures[number] for number in range(len(trainer.pictures)))
        if (first := next(filter(_large_enough, photographs), None)) is not None:
            samples["content"] = first.to(torch.device("cpu"))
    return samples


def _read_sample(path: Path) -> Tensor:
    try:
        picture = decode(path, SAMPLE_SIDE)
    except UNREADABLE as error:
        raise SampleUnreadableError(path, "no such file" if not path.exists() else "it is no picture") from error
    if not _large_enough(picture):
        raise SampleUnreadableError(path, f"it has less than the {MIN_SIZE} px that the net needs")
    return picture


def _large_enough(picture: Tensor) -> bool:
    return min(picture.shape[-2:]) >= MIN_SIZE


def _free_name(stem: str, taken: Container[str]) -> str:
    numbered = (f"{stem}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain((stem,), numbered) if name not in taken)
