"""Pictures in a GPU's memory, from and to other libraries, and their streams."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from nst_deploy.errors import NotADeviceArrayError
from nst_deploy.runtime import dlpack

UINT8 = "|u1"  # NumPy's name of the type in __cuda_array_interface__
DEFAULT_STREAMS = (
    0,
    1,
    2,
)  # the legacy one (twice) and the one per thread: handles that stand for no stream of its own


@dataclass(frozen=True)
class DeviceView:
    """An array of somebody else.

    Attributes:
        address: of its first element.
        shape: N, H, W, 3.
        has_batch: it has N itself; otherwise it is [H, W, 3] there.
        stream: on which its content is still being made, or which waits for that; None where it is there already.
        release: to be called when it is not needed any more.
    """

    address: int
    shape: tuple[int, int, int, int]
    has_batch: bool
    stream: int | None
    release: Callable[[], None]


def view_device_array(array: Any, stream: int) -> DeviceView:
    """What another library says of its array.

    Args:
        array: with ``__dlpack__`` (torch, CuPy, JAX) or ``__cuda_array_interface__`` (pycuda, Numba).
        stream: on which it will be used; a DLPack producer lets that stream wait.

    Raises:
        NotADeviceArrayError: anything but a C-contiguous uint8 ``[N, H, W, 3]`` or ``[H, W, 3]`` on a GPU.
    """
    # First: torch's __cuda_array_interface__ does not say on which stream an array is being made.
    if hasattr(array, "__dlpack__"):
        kind, _ = array.__dlpack_device__()
        if kind not in (dlpack.CUDA, dlpack.CUDA_MANAGED):
            raise NotADeviceArrayError("an array in the processor's memory")
        return _view_dlpack(array.__dlpack__(stream=stream), stream)
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None:
        raise NotADeviceArrayError(type(array).__name__)
    return _view_interface(interface)


def _view_interface(interface: dict[str, Any]) -> DeviceView:
    """Version 2 and 3 of the interface; see Numba's documentation of it."""
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    if interface["typestr"] != UINT8:
        raise NotADeviceArrayError(f"{interface['typestr']} {list(shape)}")
    four = _four(shape, None if strides is None else tuple(strides))
    return DeviceView(interface["data"][0], four, len(shape) == len(four), interface.get("stream"), lambda: None)


def _view_dlpack(capsule: object, stream: int) -> DeviceView:
    try:
        taken = dlpack.take(capsule)
    except ValueError as error:
        raise NotADeviceArrayError(str(error)) from error
    try:
        if taken.dtype != (dlpack.UNSIGNED, 8, 1):
            code, bits, _ = taken.dtype
            raise NotADeviceArrayError(f"numbers of kind {code} with {bits} bits, {list(taken.shape)}")
        four = _four(taken.shape, taken.strides)
    except NotADeviceArrayError:
        taken.release()
        raise
    return DeviceView(taken.address, four, len(taken.shape) == len(four), stream, taken.release)


def _four(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> tuple[int, int, int, int]:
    """N, H, W, 3; an element has one byte, so strides in bytes and in elements are the same."""
    if len(shape) not in (3, 4) or shape[-1] != 3 or prod(shape) == 0:
        raise NotADeviceArrayError(f"uint8 {list(shape)}")
    contiguous = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
    if strides is not None and any(
        given != needed for given, needed, side in zip(strides, contiguous, shape, strict=True) if side > 1
    ):
        raise NotADeviceArrayError(f"uint8 {list(shape)} with strides {list(strides)}")
    n, h, w, c = shape if len(shape) == 4 else (1, *shape)
    return n, h, w, c


def stream_handle(stream: Any) -> int:
    """CUDA's handle of a stream.

    Args:
        stream: the handle itself, or an object with ``__cuda_stream__`` (cuda.core's protocol), or with the attribute
            that torch (``cuda_stream``), CuPy (``ptr``) or pycuda (``handle``) gives its own.

    Raises:
        NotADeviceArrayError: anything else.
    """
    if hasattr(stream, "__cuda_stream__"):
        _, handle = stream.__cuda_stream__()
        return int(handle)
    for name in ("cuda_stream", "ptr", "handle"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    raise NotADeviceArrayError(f"the stream {stream!r}")


class DeviceArray:
    """A picture in a GPU's memory: uint8, C-contiguous, ``[N, H, W, 3]`` or ``[H, W, 3]``, RGB.

    torch, CuPy, pycuda and others take it without a copy (``torch.as_tensor(array)``, ``cupy.asarray(array)``,
    ``torch.from_dlpack(array)``); its memory is freed when the last of them lets it go.

    Attributes:
        shape: elements.
        address: of the first one.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        *,
        owner: object,
        ordinal: int = 0,
        stream: int | None = None,
        join: Callable[[int], None] | None = None,
    ) -> None:
        """
        Args:
            owner: frees the memory when it goes.
            ordinal: of the GPU.
            stream: on which its content is still being made; None where it is there.
            join: lets another stream wait for that.
        """
        self.address, self.shape = address, shape
        self._owner, self._ordinal, self._stream, self._join = owner, ordinal, stream, join

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": UINT8,
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            # 0 would be ambiguous between the two default streams, and is not allowed.
            "stream": 1 if self._stream == 0 else self._stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self._ordinal

    def __dlpack__(self, *, stream: int | None = None, **_: object) -> object:
        if self._join is not None and stream != -1:  # -1: the consumer asks for no synchronisation
            self._join(1 if stream is None else stream)
        return dlpack.give(self.address, self.shape, dlpack.CUDA, self._ordinal, self)
