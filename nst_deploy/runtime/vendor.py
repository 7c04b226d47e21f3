"""Loading a vendor's library, which may be missing or broken."""

from collections.abc import Iterator
from contextlib import contextmanager

from nst_deploy.errors import BackendBrokenError, BackendMissingError


@contextmanager
def loading(package: str, extra: str, module: str | None = None) -> Iterator[None]:
    """Turns what the import of ``package`` in the block raises into one of our errors.

    Args:
        package: as pip calls it.
        extra: what installs it.
        module: as Python calls it, where that differs.

    Raises:
        BackendMissingError: it is not installed.
        BackendBrokenError: it is, but does not load.
    """
    name = module or package
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name == name or (error.name and name.startswith(error.name + ".")):
            raise BackendMissingError(package, extra) from error
        raise BackendBrokenError(package, str(error)) from error
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):
            raise error.__cause__ from None  # a signal while it was loading, which its C++ code wraps
        raise BackendBrokenError(package, str(error).split("\n")[0]) from error
