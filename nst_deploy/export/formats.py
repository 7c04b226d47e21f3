"""What kinds of file an export can make."""

from typing import Literal, get_args

Format = Literal["onnx", "plan"]
FORMATS: tuple[Format, ...] = get_args(Format)
DEFAULT_FORMATS: tuple[Format, ...] = ("onnx",)  # nst-export adds the plan where something that builds it is installed
