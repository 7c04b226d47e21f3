"""PyTorch files read without running anything that is in them."""

import warnings
from pathlib import Path
from typing import Any

import torch


def load_tensors(path: Path, *, mmap: bool = False) -> Any:
    """What ``torch.save`` wrote, onto the CPU: tensors and plain Python values only.

    Args:
        mmap: read only what is used; for zip archives, which ``torch.save`` has written since PyTorch 1.6.

    Raises:
        pickle.UnpicklingError: it holds other objects, or is no PyTorch file.
        OSError, ValueError, EOFError, RuntimeError, KeyError: it is damaged.
    """
    with warnings.catch_warnings():
        # Of pickle protocols and the like: what cannot be read is an error, and nothing else concerns the user.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
