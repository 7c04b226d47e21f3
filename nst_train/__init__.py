"""Training of image transform networks in PyTorch: ``nst_train.fit(TrainConfig(...))``. Importing this is light."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nst_train.config import TrainConfig
    from nst_train.trainer import StepReport, fit

__all__ = ["StepReport", "TrainConfig", "fit"]

_HOMES = {"StepReport": "nst_train.trainer", "TrainConfig": "nst_train.config", "fit": "nst_train.trainer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
