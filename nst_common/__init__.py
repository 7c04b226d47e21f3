"""What nst_train and nst_deploy share: errors for users, the command line's manners, safe writing, progress.

Imports neither of them, and nothing heavier than the standard library (tqdm only while a bar is drawn).
"""


def package_version() -> str:
    """Version of the installed `nst` distribution; ``0+unknown`` when run from a checkout that is not installed."""
    from importlib import metadata  # noqa: PLC0415  (20 ms, which a cold start of the runtime does not need)

    try:
        return metadata.version("nst")
    except metadata.PackageNotFoundError:
        return "0+unknown"
