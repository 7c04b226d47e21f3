"""Training on a GPU: the photographs are held and cropped there."""

import dataclasses
from pathlib import Path

import pytest
import torch

from nst_train.data import CropLoader, CropPlan, PictureStore, find_pictures
from nst_train.trainer import LOOK_EVERY, StepReport, fit
from tests.nst_train.tiny_training import tiny_config, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def test_crops_are_those_of_the_cpu(pictures: Path) -> None:
    plan = CropPlan(seed=5, batch=6, crop=16, max_scale=1.5, flip=True)
    batches = []
    for device in ("cpu", "cuda"):
        store = PictureStore(
            find_pictures([pictures / "content"]), short_side=1000, budget=1 << 30, device=torch.device(device)
        )
        batches.append(CropLoader(store, plan, workers=2).batch(3))
    assert batches[1].is_cuda
    assert batches[1].dtype == torch.uint8
    assert (batches[0].int() - batches[1].cpu().int()).abs().max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_objective(precision: str, pictures: Path, small_vgg: Path) -> None:
    config = tiny_config(pictures, small_vgg, device="cuda", precision=precision, steps=80, lr=3e-3, workers=2)
    reports: list[StepReport] = []
    fit(config, reports.append)
    first, last = (sum(report.total for report in part) / 10 for part in (reports[:10], reports[-10:]))
    assert last < 0.8 * first


@pytest.mark.parametrize(("first", "second"), [("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")])
def test_a_training_goes_on_where_another_run_or_device_left_it(
    first: str, second: str, pictures: Path, small_vgg: Path, tmp_path: Path
) -> None:
    config = tiny_config(pictures, small_vgg, device="cpu", steps=LOOK_EVERY + 5, lr=1e-5, final_lr=1e-5)
    fit(dataclasses.replace(config, out=tmp_path / "whole.pth"))
    fit(dataclasses.replace(config, device=first, max_minutes=0.0))
    steps: list[int] = []
    fit(dataclasses.replace(config, device=second, resume=True), lambda report: steps.append(report.step))
    assert steps == list(range(2, LOOK_EVERY + 6))
    for name, value in weights(tmp_path / "whole.pth").items():  # 25 steps of hardly more than 1e-5 each
        assert torch.allclose(weights(config.out)[name], value, rtol=0, atol=1e-3), name
