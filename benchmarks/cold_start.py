"""The whole process, cold: nst-infer on one picture against a minimal PyTorch script with the same weights.

    python benchmarks/cold_start.py --ckpt la_muse.pth --picture photo.jpg [--size 512] [--runs 7]

Both read the same JPEG, use the same number of threads and write a JPEG. Processes run alternately; medians of wall
time (s) and of peak resident memory (MiB) are reported, and their ratios. Writes benchmarks/results/cold_start.json.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
import numpy as np
import torch
from PIL import Image

from nst_deploy.export import export
from nst_train.checkpoints import load_checkpoint

RESULTS = Path(__file__).parent / "results" / "cold_start.json"

# What a user would write to run one net without nst: torch, numpy and PIL, eager, inference_mode. The net's class comes
# from transform_net.py, which imports torch and nothing else of weight, so that the weights are the same.
TORCH_SCRIPT = """
import sys
import numpy as np
import torch
from PIL import Image
from nst_train.transform_net import TransformNet, TransformNetConfig

net_file, source, target, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
content = torch.load(net_file, weights_only=True)
net = TransformNet(TransformNetConfig(**content["config"])).eval()
net.load_state_dict(content["state"])
image = torch.from_numpy(np.array(Image.open(source).convert("RGB"))).float().permute(2, 0, 1)[None]
with torch.inference_mode():
    styled = net(image)[0].round().permute(1, 2, 0).to(torch.uint8).numpy()
Image.fromarray(styled).save(target, quality=95, subsampling=0)
"""


# A process inherits the peak memory of the one that started it, so each is started by one that has hardly any.
LAUNCHER = """
import os, resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, code)
"""


def measure(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of one process."""
    launched = [sys.executable, "-S", "-E", "-c", LAUNCHER, *command]
    shown = subprocess.run(launched, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    if shown[2] != "0":
        sys.exit(f"{' '.join(command)} failed with exit code {shown[2]}")
    return float(shown[0]), float(shown[1])


def psnr(a: Path, b: Path) -> float | None:
    """dB between two pictures; None where they are equal."""
    first, second = (np.asarray(Image.open(path)).astype(np.float64) for path in (a, b))
    error = float(np.square(first - second).mean())
    return 10 * float(np.log10(255**2 / error)) if error else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--size", type=int, default=512, help="both sides of the picture, px")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photo = work / "photo.jpg"
        Image.open(arguments.picture).convert("RGB").resize((arguments.size,) * 2).save(photo, quality=95)
        engine = export(arguments.ckpt, work).files[0].path
        checkpoint = load_checkpoint(arguments.ckpt)
        torch.save({"config": dataclasses.asdict(checkpoint.config), "state": checkpoint.state}, work / "net.pt")
        (work / "script.py").write_text(TORCH_SCRIPT)
        threads = str(arguments.threads)
        nst_infer = str(Path(sys.executable).parent / "nst-infer")
        ours = [nst_infer, "--engine", str(engine), str(photo), "--out", str(work / "ours.jpg")]
        theirs = [sys.executable, str(work / "script.py"), str(work / "net.pt"), str(photo), str(work / "theirs.jpg")]
        commands = {
            "nst-infer": [*ours, "--overwrite", "--quality", "95", "--threads", threads],
            "PyTorch eager": [*theirs, threads],
        }
        env = os.environ | {"OMP_NUM_THREADS": threads}
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for command in commands.values():
            measure(command, env)  # fills the page cache for both alike
        for _ in range(arguments.runs):
            for name, command in commands.items():
                samples[name].append(measure(command, env))
        same = psnr(work / "ours.jpg", work / "theirs.jpg")

    seconds = {name: statistics.median(s for s, _ in rows) for name, rows in samples.items()}
    memory = {name: statistics.median(m for _, m in rows) for name, rows in samples.items()}
    result = {
        "command": " ".join(["python", *sys.argv]),
        "size": arguments.size,
        "threads": arguments.threads,
        "runs": arguments.runs,
        "machine": machine.describe(),
        "wall_seconds": seconds,
        "peak_mib": memory,
        "wall_ratio": seconds["nst-infer"] / seconds["PyTorch eager"],
        "memory_ratio": memory["nst-infer"] / memory["PyTorch eager"],
        "psnr_db_between_the_two_jpegs": same,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    for name in commands:
        print(f"{name:14} {seconds[name]:6.2f} s {memory[name]:7.0f} MiB")
    print(f"{'ratio':14} {result['wall_ratio']:6.2f}   {result['memory_ratio']:7.2f}")
    print(f"PSNR between the two: {'equal' if same is None else f'{same:.1f} dB'}")


if __name__ == "__main__":
    main()
