"""Which of NVIDIA's builders is installed, and what is worth knowing of the GPU beside it."""

from importlib.util import find_spec
from typing import Any

from nst_common.errors import UserError
from nst_deploy.errors import BuilderMissingError
from nst_deploy.plan_sidecar import FLAVORS, Flavor
from nst_deploy.runtime.device_memory import CudaDriver, open_driver
from nst_deploy.runtime.trt import load_library

MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


def installed_flavors() -> tuple[Flavor, ...]:
    """Those whose library is installed, in the order of preference; nothing is loaded for it."""
    return tuple(flavor for flavor in FLAVORS if find_spec(MODULES[flavor]) is not None)


def load_builder(flavor: Flavor | None) -> tuple[Flavor, Any]:
    """A flavour and its library.

    Args:
        flavor: None takes the first that is installed.

    Raises:
        BuilderMissingError: None is installed.
        BackendMissingError, BackendBrokenError: the one asked for is not installed, or does not load.
    """
    if flavor is None:
        installed = installed_flavors()
        if not installed:
            raise BuilderMissingError
        flavor = installed[0]
    return flavor, load_library(flavor)


def find_gpu() -> CudaDriver | None:
    """The GPU that is here; None where there is none, or no package to ask it with."""
    try:
        return open_driver()
    except UserError:
        return None


def free_memory() -> tuple[int, int] | None:
    """Free and total memory of the GPU, bytes; None where there is none that can be asked."""
    driver = find_gpu()
    if driver is None:
        return None
    try:
        with driver.current():
            return driver.memory()
    except UserError:
        return None
