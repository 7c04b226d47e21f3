"""What nst_train and nst_deploy share: errors for users, the command line's manners, safe writing, progress.

Imports neither of them, and nothing heavier than the standard library (tqdm only while a bar is drawn).
"""

from importlib import metadata


def package_version() -> str:
    """Version of the installed `nst` distribution; ``0+unknown`` when run from a checkout that is not installed."""
    try:
        return metadata.version("nst")
    except metadata.PackageNotFoundError:
        return "0+unknown"
