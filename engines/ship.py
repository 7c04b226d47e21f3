"""Makes a trained checkpoint one of the bundled styles: weights, engine, thumbnail and model card.

    python engines/ship.py la_muse.pth [starry_night.pth …]

Writes engines/NAME.pth (weights in FP16 where the picture keeps 55 dB, in FP32 otherwise), nst_deploy/styles/NAME.onnx
and NAME.int8.onnx exported from it and proven as nst-export does, NAME.jpg beside them, and engines/NAME.md. Cards
quote benchmarks/results/quality.json where it knows the style; run this again after benchmarks/quality.py.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from nst_deploy import Stylizer
from nst_deploy.export import ExportedFile, export
from nst_deploy.export.parity import compare, verification_pictures
from nst_deploy.export.proof import reference_run
from nst_deploy.images import Picture, load_picture, save_picture
from nst_deploy.styles import thumbnail
from nst_train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[1]
STYLES = ROOT / "nst_deploy" / "styles"
QUALITY = ROOT / "benchmarks" / "results" / "quality.json"
THUMBNAIL_OF = ROOT / "nst_deploy" / "export" / "photographs" / "rocket.jpg"
HALF_MIN_PSNR = 55.0  # dB, what an FP16 engine must keep as well


@dataclasses.dataclass(frozen=True)
class Painting:
    """What a card says of the painting."""

    title: str
    status: str


PAINTINGS = {
    "starry_night": Painting("*The Starry Night*, Vincent van Gogh, 1889", "public domain"),
    "la_muse": Painting(
        "*La Muse*, Pablo Picasso, 1935",
        "in copyright (the painter died in 1973); for research, ask before selling prints",
    ),
    "wave": Painting("*Under the Wave off Kanagawa*, Katsushika Hokusai, about 1831", "public domain"),
    "the_scream": Painting("*The Scream*, Edvard Munch, 1893", "public domain"),
    "udnie": Painting(
        "*Udnie*, Francis Picabia, 1913",
        "public domain where copyright ends 70 years after the painter's death (1953)",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    for path in parser.parse_args().checkpoints:
        ship(load_checkpoint(path))


def ship(checkpoint: Checkpoint) -> None:
    """Everything for one style."""
    name = checkpoint.style
    weights = ROOT / "engines" / f"{name}.pth"
    kept, psnr = _halved(checkpoint)
    save_checkpoint(weights, kept)
    file, int8 = export(weights, STYLES, formats=("onnx",), precisions=("fp32", "int8")).files
    _thumbnail(file.path)
    (ROOT / "engines" / f"{name}.md").write_text(card(kept, psnr, file, int8), encoding="utf-8")
    print(f"{name}: {file.contract.parity}")


def _halved(checkpoint: Checkpoint) -> tuple[Checkpoint, float | None]:
    """The checkpoint with FP16 weights and its PSNR in dB against the FP32 ones, where that is high enough."""
    state: dict[str, Tensor] = {key: value.half() for key, value in checkpoint.state.items()}
    halved = dataclasses.replace(checkpoint, state=state)
    runs = reference_run(checkpoint.build()), reference_run(halved.build())
    psnr = compare(*runs, "FP16 weights", verification_pictures()).parity.psnr_db or math.inf
    return (halved, psnr) if psnr >= HALF_MIN_PSNR else (checkpoint, None)


def _thumbnail(engine: Path) -> None:
    with Stylizer(engine) as stylize:
        photo = load_picture(THUMBNAIL_OF)
        save_picture(thumbnail(engine), Picture(np.asarray(_shrunk(stylize(photo.rgb)))), quality=88)


def _shrunk(styled: np.ndarray) -> Image.Image:
    return Image.fromarray(styled).resize((240, 160), Image.Resampling.LANCZOS)


def card(checkpoint: Checkpoint, half_psnr: float | None, file: ExportedFile, int8: ExportedFile) -> str:
    """The model card, Markdown; every figure comes from the checkpoint's record or a measurement."""
    name, record = checkpoint.style, checkpoint.record
    config, objective = record["config"], record["config"]["objective"]
    painting = PAINTINGS[name.removesuffix("_half")]
    parity, int8_parity = file.contract.parity, int8.contract.parity
    assert parity is not None  # export() measured both
    assert int8_parity is not None
    psnr = "equal pixels" if parity.psnr_db is None else f"{parity.psnr_db:.1f} dB"
    last = record["losses"][-len(record["losses"]) // 10 :]  # a tenth of the training; each row: step, four means
    content, style, variation, grid, total = (sum(row[i] for row in last) / len(last) for i in range(1, 6))
    net = checkpoint.config
    rows = {
        "painting": f"{painting.title}; {painting.status}",
        "net": f"{'/'.join(map(str, net.widths))} channels, {net.blocks} residual blocks, `{net.padding}` padding, "
        f"`{net.upsampling}` upsampling",
        "schedule": f"{record['step']} steps of {config['batch']} crops of {config['crop']} px, {_start(config)}; Adam "
        f"{config['lr']:g} to {config['final_lr']:g}, EMA {config['ema']:g}, {record['seconds'] / 60:.1f} minutes on "
        f"{record['device']} with {config['precision']}",
        "painting's size": ", ".join(f"{size} px" for size in config["style_size"]) + " on its long side, compared in "
        f"{objective.get('style_octaves', 1)} octaves",
        "loss network": f"{objective['architecture'].upper().replace('VGG', 'VGG-')}: content "
        f"{', '.join(objective['content_layers'])}; style {', '.join(objective['style_layers'])}",
        "weights": f"content {objective['content_weight']:g}, style {objective['style_weight']:g}, total variation "
        f"{objective['total_variation_weight']:g}, lattice {objective['grid_weight']:g}",
        "losses at the end": f"content {content:.3f}, style {style:.4f}, total variation {variation:.0f}, lattice "
        f"{grid:.2f}; weighted sum {total:.3f} (means of the last tenth)",
        "quality": _quality(name),
        "weights on disk": "FP32" if half_psnr is None else f"FP16, {half_psnr:.1f} dB from the FP32 ones",
        "engine": f"FP32; at most {parity.max_levels} level from PyTorch, {parity.identical:.3%} of values equal, "
        f"{psnr}",
        "INT8 engine": f"{int8_parity.psnr_db:.1f} dB from PyTorch ({int8_parity.backend})",
    }
    held_out = len(config["exclude"])
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# {name}

![{name}](../nst_deploy/styles/{name}.jpg)

| | |
|---|---|
{table}

Trained on the train and test parts of the Berkeley Segmentation Data Set (BSDS500, Arbeláez et al. 2011; 400
photographs, for research and education, none of them part of this repository); the {held_out} that `{name}.toml` lists
were held out to measure on. The loss network has the published ImageNet weights (Simonyan and Zisserman 2014,
CC BY 4.0).

Made with `engines/train.py {name}`, which follows `{name}.toml`.
"""


def _start(config: Mapping[str, Any]) -> str:
    """Where the training began."""
    return f"from `{config['init']}`" if config.get("init") else "from random weights"


def _quality(name: str) -> str:
    styles: dict[str, Any] = json.loads(QUALITY.read_text(encoding="utf-8")) if QUALITY.exists() else {}
    if name not in styles:
        return "not measured"
    entry = styles[name]
    return (
        f"equals {entry['lbfgs_iterations']:g} iterations of L-BFGS on the same objective "
        f"(median of {entry['photographs']} held-out photographs)"
    )


if __name__ == "__main__":
    main()
