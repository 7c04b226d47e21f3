"""Styles pictures on a Triton Inference Server.

    python engines/triton/client.py grpc://localhost:8001/la_muse photo.jpg
    python engines/triton/client.py http://localhost:8000/la_muse 'holiday/*.jpg' --out styled/ --concurrency 4

Two ways to make use of a server that can do more than one picture at a time: --batch sends pictures of one size as one
request, --concurrency sends requests at the same time, which the server joins where their sizes are equal.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from nst_common.atomic_file import prepare_folder
from nst_common.console import ArgumentParser, run_command
from nst_common.errors import UserError
from nst_deploy import Stylizer
from nst_deploy.images import Picture, load_picture, save_picture
from nst_deploy.jobs import Job, find_pictures, pending, plan_jobs
from nst_deploy.runtime.triton import DEFAULT_TIMEOUT, TritonBackend

PROG = "client.py"


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(PROG, _work, argv)


def _work(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    sources = find_pictures(options.inputs, options.out)
    backend = TritonBackend(options.address, timeout=options.timeout)
    with Stylizer.over(backend) as stylize:
        jobs = pending(
            plan_jobs(sources, options.out, stylize.contract.style), overwrite=options.overwrite, skip_existing=False
        )
        for folder in {job.target.parent for job in jobs}:
            prepare_folder(folder)
        requests = [jobs[i : i + options.batch] for i in range(0, len(jobs), options.batch)]
        started = time.perf_counter()
        with ThreadPoolExecutor(options.concurrency) as pool:
            try:
                failures = sum(
                    pool.map(lambda request: _style(stylize, request, overwrite=options.overwrite), requests)
                )
            except BaseException:
                pool.shutdown(cancel_futures=True)  # the server failed: the next request would as well
                raise
    seconds = time.perf_counter() - started
    sys.stdout.write(f"{len(jobs) - failures} of {len(jobs)} pictures in {seconds:.2f} s, {backend.name}\n")
    return 1 if failures else 0


def _style(stylize: Stylizer, jobs: Sequence[Job], *, overwrite: bool) -> int:
    """Styles the pictures of one request; returns how many could not be read."""
    pictures: list[tuple[Job, Picture]] = []
    for job in jobs:
        try:
            pictures.append((job, load_picture(job.source.path)))
        except UserError as error:
            sys.stderr.write(f"{PROG}: error: {error}\n")
    # Stylizer makes one batch of those whose sizes are equal.
    styled = stylize([picture.rgb for _, picture in pictures])
    for (job, picture), rgb in zip(pictures, styled, strict=True):
        save_picture(job.target, replace(picture, rgb=rgb), overwrite=overwrite)
        sys.stdout.write(f"{job.target}\n")
    return len(jobs) - len(pictures)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("address", metavar="ADDRESS", help="grpc://HOST:8001/MODEL or http://HOST:8000/MODEL")
    add("inputs", nargs="+", metavar="INPUT", help="picture, folder or quoted glob")
    add("--out", metavar="PATH", help="file, folder/ or pattern, as of nst-infer (default: the current folder)")
    add("--batch", type=_count, default=1, metavar="N", help="pictures of one size in one request (default: 1)")
    add("--concurrency", type=_count, default=1, metavar="N", help="requests at the same time (default: 1)")
    add("--timeout", type=float, default=DEFAULT_TIMEOUT, metavar="S", help="for every answer (default: %(default)g)")
    add("--overwrite", action="store_true", help="replace outputs that exist")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number, 1..256")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
