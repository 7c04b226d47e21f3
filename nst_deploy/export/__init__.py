"""Checkpoints to engines: the only part of nst_deploy that knows torch and nst_train."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nst_deploy.export.exporter import ExportedFile, ExportReport, export, verify_engine

__all__ = ["ExportReport", "ExportedFile", "export", "verify_engine"]


def __getattr__(name: str) -> Any:
    # Lazily, so that `nst-export --help` needs no torch, and a missing one gets its own message.
    if name in __all__:
        return getattr(import_module("nst_deploy.export.exporter"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
