"""Pictures in, styled pictures of the same kind out."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nst_common.errors import UsageError
from nst_deploy.blend import blend
from nst_deploy.color import to_rgb
from nst_deploy.contract import MIN_SIZE, ModelContract
from nst_deploy.errors import NotAPictureError, PictureSizeError
from nst_deploy.runtime.backend import Backend, Device, LowerPrecision, open_backend
from nst_deploy.styles import DEFAULT_STYLE, find_engine

Array: TypeAlias = NDArray[np.uint8]
Picture = TypeVar("Picture", Image.Image, NDArray[np.uint8])

FRAME_DIMS, BATCH_DIMS = 3, 4  # [H, W, 3] and [N, H, W, 3]


class Stylizer:
    """An engine, ready to style pictures; may be shared between threads.

    Args:
        engine: an engine's path, or the name of a bundled style.
        device: ``cpu`` is ONNX Runtime, ``openvino`` OpenVINO, ``cuda`` ONNX Runtime on a GPU, ``tensorrt`` what runs
            a plan; ``auto`` takes the fastest one that can be used here and never lowers the precision.
        precision: ``bf16`` computes in less than the engine's own precision: twice as fast on CPUs that have it, and
            not the same picture to the last level. ``int8`` runs the INT8 engine beside it on OpenVINO: half as fast
            again, PSNR 34 dB and more. None keeps the engine's own.
        threads: CPU threads for one picture; None takes every core.
        cache: let the back end keep what it compiled in the user's cache folder, for a faster start.
        cuda_graph: run each size as a CUDA graph: less work for the processor between the pictures of a stream. For
            plans, and for ONNX engines of one static size on ``cuda``.

    Raises:
        UnknownStyleError; and those of ``open_backend``.

    Example:
        >>> stylize = Stylizer("la_muse.onnx")
        >>> styled = stylize(Image.open("photo.jpg"))
    """

    def __init__(
        self,
        engine: str | Path = DEFAULT_STYLE,
        *,
        device: Device = "auto",
        precision: LowerPrecision | None = None,
        threads: int | None = None,
        cache: bool = True,
        cuda_graph: bool = False,
    ) -> None:
        self._backend: Backend = open_backend(
            find_engine(engine), device, precision=precision, threads=threads, cache=cache, cuda_graph=cuda_graph
        )

    @classmethod
    def over(cls, backend: Backend) -> Self:
        """A Stylizer over an opened back end, such as a TritonBackend; it is closed with the Stylizer."""
        stylizer = cls.__new__(cls)
        stylizer._backend = backend
        return stylizer

    @property
    def contract(self) -> ModelContract:
        """What the engine says of itself: style, precision, checkpoint, parity, size."""
        return self._backend.contract

    @property
    def backend(self) -> str:
        """Name of what runs the engine."""
        return self._backend.name

    @property
    def on_gpu(self) -> bool:
        """Whether the engine works in a GPU's memory, so that ``style_device`` can be used."""
        return hasattr(self._backend, "run_device")

    @overload
    def __call__(self, images: Picture, *, strength: float = ..., keep_color: bool = ...) -> Picture: ...
    @overload
    def __call__(
        self, images: Sequence[Picture], *, strength: float = ..., keep_color: bool = ...
    ) -> list[Picture]: ...

    def __call__(self, images: Any, *, strength: float = 1.0, keep_color: bool = False) -> Any:
        """Styles one picture or many.

        Args:
            images: a PIL.Image of any mode; a uint8 array ``[H, W, 3]`` or ``[N, H, W, 3]``, RGB; or a sequence of
                pictures, of which those of equal size run as one batch.
            strength: 0..1, from the photograph to the styled picture.
            keep_color: the style's luminance with the photograph's colour.

        Returns:
            The same kind, shape and order. A PIL.Image comes back as RGB, or RGBA where the input had alpha, with its
            ICC profile where that is for RGB, and upright where its EXIF said that it lies on its side.

        Raises:
            NotAPictureError: another type, dtype or shape.
            PictureSizeError: below 8 px, or not the one size that a static engine takes.
            BackendFailedError: the runtime gave up.
        """
        if not 0.0 <= strength <= 1.0:
            raise UsageError(f"strength is {strength}, expected 0..1", "0 is the photograph, 1 the style")
        if isinstance(images, np.ndarray) and images.ndim == BATCH_DIMS:
            return self._style_batch(_check(images), strength, keep_color)
        if isinstance(images, np.ndarray | Image.Image):
            return self._style_all([images], strength, keep_color)[0]
        if isinstance(images, Sequence) and not isinstance(images, str | bytes):
            return self._style_all(images, strength, keep_color)
        raise NotAPictureError(type(images).__name__)

    def style_device(self, images: Any, *, stream: Any = None, out: Any = None) -> Any:
        """Styles pictures that lie in the GPU's memory, without a copy through the host.

        Args:
            images: uint8 ``[N, H, W, 3]`` or ``[H, W, 3]``, RGB, C-contiguous: an array of torch, CuPy or pycuda, or
                any other with ``__cuda_array_interface__`` or ``__dlpack__``.
            stream: the caller's own, as an object or a handle; without one the call returns when the work is done.
            out: where to write, an array like ``images``; None makes a new one.

        Returns:
            ``out``, or an array of the same shape that those libraries take without a copy.

        Raises:
            UsageError: the engine does not run on a GPU.
            NotADeviceArrayError, PictureSizeError, OutOfDeviceMemoryError, BackendFailedError.
        """
        if not self.on_gpu:
            raise UsageError(f"{self.backend} does not run on a GPU", "Open it with device='cuda' or device='tensorrt'")
        backend: Any = self._backend
        return backend.run_device(images, stream=stream, out=out)

    def close(self) -> None:
        """Frees the engine; the Stylizer cannot be used afterwards."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _style_all(self, pictures: Sequence[Image.Image | Array], strength: float, keep_color: bool) -> list[Any]:
        decoded = [_decode(picture) for picture in pictures]
        arrays = [array for array, _, _ in decoded]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, array in enumerate(arrays):
            by_size[array.shape].append(index)
        styled: list[Any] = [None] * len(arrays)
        for indices in by_size.values():
            batch = self._style_batch(np.stack([arrays[i] for i in indices]), strength, keep_color)
            for index, picture in zip(indices, batch, strict=True):
                as_array = isinstance(pictures[index], np.ndarray)
                styled[index] = picture if as_array else _to_image(picture, *decoded[index][1:])
        return styled

    def _style_batch(self, batch: Array, strength: float, keep_color: bool) -> Array:
        """uint8 ``[N, H, W, 3]`` -> the same."""
        if not len(batch):
            return batch.copy()
        self._check_size(*batch.shape[1:3])
        return blend(batch, self._backend.run(np.ascontiguousarray(batch)), strength=strength, keep_color=keep_color)

    def _check_size(self, height: int, width: int) -> None:
        static = self.contract.static_size
        if static is not None and (height, width) != static:
            expected = f"{static[1]}x{static[0]} px, the one size that this engine was exported for"
            raise PictureSizeError(height, width, expected, "Resize it, or export without --static")
        if min(height, width) < MIN_SIZE:
            raise PictureSizeError(height, width, f"at least {MIN_SIZE}x{MIN_SIZE} px", "Give a larger picture")


def _check(array: NDArray[Any]) -> Array:
    if array.dtype != np.uint8 or array.shape[-1] != 3 or array.ndim not in (FRAME_DIMS, BATCH_DIMS):
        raise NotAPictureError(f"{array.dtype} {list(array.shape)}")
    return cast("Array", array)


def _decode(picture: object) -> tuple[Array, Image.Image | None, bytes | None]:
    """uint8 ``[H, W, 3]``, alpha (mode L) where there is one, and the ICC profile of the pixels."""
    if isinstance(picture, Image.Image):
        rgb, profile = to_rgb(ImageOps.exif_transpose(picture))
        alpha = rgb.getchannel("A") if rgb.mode == "RGBA" else None
        return np.asarray(rgb.convert("RGB")), alpha, profile
    if isinstance(picture, np.ndarray) and picture.ndim == FRAME_DIMS:
        return _check(picture), None, None
    given = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
    raise NotAPictureError(given)


def _to_image(styled: Array, alpha: Image.Image | None, profile: bytes | None) -> Image.Image:
    picture = Image.fromarray(styled)
    if alpha is not None:
        picture.putalpha(alpha)
    if profile is not None:
        picture.info["icc_profile"] = profile
    return picture
