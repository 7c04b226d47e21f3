"""The styles that the package carries, as engines beside this file."""

from pathlib import Path

from nst_deploy.errors import UnknownStyleError
from nst_deploy.runtime.int8_engine import SUFFIX

DEFAULT_STYLE = "starry_night"
_FOLDER = Path(__file__).parent


def bundled_styles() -> dict[str, Path]:
    """Name -> engine of every bundled style, by name; its INT8 engine lies beside it."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.onnx")) if not path.name.endswith(SUFFIX)}


def thumbnail(engine: Path) -> Path:
    """A photograph in the style of a bundled engine, JPEG, 240x160 px, beside it."""
    return engine.with_suffix(".jpg")


def find_engine(engine: str | Path) -> Path:
    """A path when it has a suffix or a separator (or is a Path), a bundled style's name otherwise.

    Raises:
        UnknownStyleError: a name that no bundled style has.
    """
    if isinstance(engine, Path) or Path(engine).suffix or "/" in engine or "\\" in engine:
        return Path(engine)
    styles = bundled_styles()
    if engine not in styles:
        raise UnknownStyleError(engine, list(styles))
    return styles[engine]
