"""Which pictures a command was given, and where each result goes."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nst_deploy.errors import (
    EmptyPathError,
    NoPicturesError,
    OutputCollisionError,
    OutputExistsError,
    OutputIsInputError,
    OutputIsOneFileError,
    OutputPatternError,
)
from nst_deploy.images import FEW_COLORS, FORMATS, output_format

DEFAULT_NAME = "{stem}.{style}.{ext}"
PATTERN_FIELDS = ("{stem}", "{style}", "{ext}")
FALLBACK_SUFFIX = ".png"

# Formats that Pillow lists but reads only with the help of a program or plug-in that is seldom there, or that are not
# pictures alone: passed over in folders and globs, still tried where a file is given by name.
NOT_GATHERED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@dataclass(frozen=True)
class Source:
    """A picture to style.

    Attributes:
        path: of the file.
        subfolder: where it lay below the folder or the glob's fixed part that it was found in; kept in the output.
        named: given by name, not found in a folder or by a glob.
    """

    path: Path
    subfolder: Path = Path()
    named: bool = True


@dataclass(frozen=True)
class Job:
    """One picture and the file that its result goes to."""

    source: Source
    target: Path


def find_pictures(arguments: Sequence[str], out: str | None = None) -> list[Source]:
    """Files as given; folders with all that lie below them; globs that no shell has expanded. Each file once.

    Folders and globs yield only files whose suffix is a picture's, sorted, and neither hidden ones nor any in the
    folder ``out`` where that lies inside.

    Raises:
        NoPicturesError: a folder or glob yields none.
    """
    found: dict[Path, Source] = {}
    for argument in arguments:
        for source in _expand(argument, out):
            found.setdefault(_real(source.path), source)
    return list(found.values())


def plan_jobs(sources: Sequence[Source], out: str | None, style: str, *, resume: bool = False) -> list[Job]:
    """Gives every picture its output.

    A picture that is itself the output of another one, as after an earlier run into the same folder, is left out where
    it was found in a folder or by a glob, or where ``resume`` says that this is the continuation of such a run.

    Args:
        out: a file (for one picture), a folder, or a pattern; None is ``DEFAULT_NAME`` in the current folder.

    Raises:
        OutputPatternError, OutputIsOneFileError, UnknownFormatError: ``out`` cannot be what it says.
        OutputCollisionError, OutputIsInputError: a picture would be lost.
    """
    pattern = _pattern(out, len(sources))
    jobs = [Job(source, _fill(pattern, source, style)) for source in sources]
    made_from = {_real(job.target): _real(job.source.path) for job in jobs}
    kept = []
    for job in jobs:
        path = _real(job.source.path)
        is_result = made_from.get(path, path) != path
        if not (is_result and (resume or not job.source.named)):
            kept.append(job)
    _refuse_losses(kept)
    return kept


def pending(jobs: Sequence[Job], *, overwrite: bool, skip_existing: bool) -> list[Job]:
    """The jobs that are to be done.

    Raises:
        OutputExistsError: outputs exist, and neither flag says what to do about them.
    """
    existing = [] if overwrite else [job for job in jobs if os.path.lexists(job.target)]
    if existing and not skip_existing:
        raise OutputExistsError(existing[0].target, len(existing), len(jobs))
    done = {job.target for job in existing}
    return [job for job in jobs if job.target not in done]


def _real(path: Path) -> Path:
    # Path.resolve raises for a link that leads to itself; that is for whoever opens it to report.
    return Path(os.path.realpath(path))


def _expand(argument: str, out: str | None) -> Iterator[Source]:
    if not argument:
        raise EmptyPathError("INPUT")
    path = Path(argument)
    if os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises for names that are too long)
        yield from _gather(argument, path, _files_below(path, out))
    elif not os.path.lexists(path) and glob.has_magic(argument):
        fixed = Path(*_until_magic(path.parts))
        matches = (Path(match) for match in sorted(glob.glob(argument, recursive=True)))  # noqa: PTH207  (skips hidden)
        yield from _gather(argument, fixed, (match for match in matches if os.path.isfile(match)))  # noqa: PTH113
    else:
        yield Source(path)


def _gather(argument: str, base: Path, files: Iterator[Path]) -> Iterator[Source]:
    suffixes = _picture_suffixes()
    pictures = [Source(f, f.relative_to(base).parent, named=False) for f in files if f.suffix.lower() in suffixes]
    if not pictures:
        raise NoPicturesError(argument)
    yield from pictures


def _files_below(folder: Path, out: str | None) -> Iterator[Path]:
    outputs = _real(Path(out)) if out and _is_folder(out) else None
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and _real(here / f) != outputs)
        yield from (here / name for name in sorted(files) if not name.startswith("."))


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _picture_suffixes() -> set[str]:
    return {
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in NOT_GATHERED
    }


def _pattern(out: str | None, count: int) -> str:
    if out is None:
        return DEFAULT_NAME
    if not out:
        raise EmptyPathError("--out")
    if _is_folder(out):
        return str(Path(out) / DEFAULT_NAME)
    if "{" not in out and count > 1:
        raise OutputIsOneFileError(out, count)
    return out


def _is_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or Path(out).is_dir() or not Path(out).suffix


def _fill(pattern: str, source: Source, style: str) -> Path:
    suffix = source.path.suffix
    name = FORMATS.get(suffix.lower())
    if name is None or name in FEW_COLORS:
        suffix = FALLBACK_SUFFIX
    fields = {"{stem}": source.path.stem, "{style}": re.sub(r"[^\w.-]", "_", style), "{ext}": suffix[1:]}

    def value(match: re.Match[str]) -> str:
        if match[0] not in fields:
            raise OutputPatternError(pattern, match[0], PATTERN_FIELDS)
        return fields[match[0]]

    path = Path(re.sub(r"\{[^}/]*\}?", value, pattern))
    # Without a field it is one file for one picture, wherever that was found.
    target = path.parent / source.subfolder / path.name if "{" in pattern else path
    output_format(target)
    return target


def _refuse_losses(jobs: Sequence[Job]) -> None:
    inputs = {_real(job.source.path) for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        target = _real(job.target)
        if target in inputs:
            raise OutputIsInputError(job.source.path, job.target)
        if target in taken:
            raise OutputCollisionError(taken[target], job.source.path, job.target)
        taken[target] = job.source.path
