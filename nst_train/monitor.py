"""What a training shows while it runs: progress, TensorBoard scalars, sample pictures. For rank 0 only."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from nst_common.atomic_file import atomic_write
from nst_common.progress import Progress
from nst_train.data import UNREADABLE, decode
from nst_train.errors import SampleUnreadableError
from nst_train.trainer import StepReport, Trainer

SAMPLE_SIDE = 512  # px, the shorter side of a sample at most: a glance, not a print
SCALARS_EVERY = 10  # steps


class Monitor:
    """Follows one training; call it with every report.

    Raises:
        SampleUnreadableError: a picture given with --sample cannot be read.
    """

    def __init__(self, trainer: Trainer) -> None:
        config = trainer.config
        self._trainer = trainer
        self._folder: Path = config.log_dir / config.out.stem
        self._samples = _read_samples(trainer) if config.sample_every else {}
        self._announced = 0  # of the unreadable files
        self.progress = Progress(config.steps, "steps", done=trainer.step)
        self._writer = self._open_writer()

    def _open_writer(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (optional, and slow to import)
        except ImportError:
            self.progress.say("TensorBoard is not installed, training goes on without it (pip install tensorboard)")
            return None
        return SummaryWriter(self._folder, purge_step=self._trainer.step + 1)

    def __call__(self, report: StepReport) -> None:
        """Shows the report, writes it where it is due, and names files that turned out unreadable."""
        note = f"content {report.content:.3f}, style {report.style:.4f}, total {report.total:.3f}"
        self.progress.advance(note=note)
        self.name_skipped()
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

    def _write_scalars(self, report: StepReport) -> None:
        for name in ("content", "style", "total_variation", "grid", "total"):
            self._writer.add_scalar(f"loss/{name}", getattr(report, name), report.step)
        self._writer.add_scalar("optimizer/learning_rate", report.lr, report.step)
        self._writer.add_scalar("optimizer/gradient_norm", report.grad_norm, report.step)

    def _write_samples(self, step: int) -> None:
        folder = self._folder / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in self._samples.items():
            styled = self._trainer.stylize(picture)  # uint8 [3, H, W]
            with atomic_write(folder / f"{name}_{step:06d}.jpg") as partial:
                Image.fromarray(styled.permute(1, 2, 0).numpy()).save(partial, "JPEG", quality=92)
            if self._writer is not None:
                self._writer.add_image(f"sample/{name}", styled, step)

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self.progress.__exit__(kind, error, traceback)


def _read_samples(trainer: Trainer) -> dict[str, Tensor]:
    """The pictures given with --sample by name, or else the first photograph trained on."""
    samples: dict[str, Tensor] = {}
    for path in trainer.config.sample:
        try:
            samples[path.stem] = decode(path, SAMPLE_SIDE)
        except UNREADABLE as error:
            raise SampleUnreadableError(path, "no such file" if not path.exists() else "it is no picture") from error
    return samples or {"content": trainer.pictures[0].to(torch.device("cpu"))}
