"""DLPack, the exchange of arrays between libraries by a pointer and a shape, taken and given.

After the specification (https://dmlc.github.io/dlpack, https://data-apis.org/array-api): the unversioned capsule, which
every producer and consumer of today still speaks.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # kinds of memory
UNSIGNED = 1  # kind of number
FRESH, CONSUMED = b"dltensor", b"used_dltensor"  # names of a capsule, by which it shows who must free the array


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; null for a C-contiguous array
        ("byte_offset", ctypes.c_uint64),
    )


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER))


_python = ctypes.pythonapi
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_python.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


@dataclass(frozen=True)
class Imported:
    """An array of another library.

    Attributes:
        address: of its first element.
        shape: elements.
        strides: elements; None where it is C-contiguous for sure.
        dtype: (code, bits, lanes).
        kind: of memory, one of the constants above.
        release: to be called once, when the array is not needed any more.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: tuple[int, int, int]
    kind: int
    release: Callable[[], None]


def take(capsule: object) -> Imported:
    """Takes over the array in a capsule that ``__dlpack__`` returned.

    Raises:
        ValueError: it is not such a capsule, or has been taken already.
    """
    try:
        pointer = _python.PyCapsule_GetPointer(capsule, FRESH)
    except ValueError as error:
        raise ValueError("__dlpack__ did not return a DLPack capsule") from error
    managed = _ManagedTensor.from_address(pointer)
    _python.PyCapsule_SetName(capsule, CONSUMED)  # from now on it is we who must call the deleter
    tensor, deleter = managed.tensor, managed.deleter
    ndim, dtype, strides = tensor.ndim, tensor.dtype, tensor.strides
    return Imported(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=tuple(tensor.shape[:ndim]),
        strides=tuple(strides[:ndim]) if strides else None,
        dtype=(dtype.code, dtype.bits, dtype.lanes),
        kind=tensor.device.kind,
        release=(lambda: deleter(pointer)) if deleter else _nothing,
    )


def _nothing() -> None:
    """For an array that nobody frees."""


# What a consumer holds by its address: owner and structures must live until its deleter is called.
_given: dict[int, tuple[object, Any, Any]] = {}


def give(address: int, shape: tuple[int, ...], kind: int, ordinal: int, owner: object) -> object:
    """A capsule for ``__dlpack__`` with a C-contiguous uint8 array; ``owner`` lives as long as its consumer wants."""
    dims = (ctypes.c_int64 * len(shape))(*shape)
    tensor = _Tensor(address, _Device(kind, ordinal), len(shape), _DataType(UNSIGNED, 8, 1), dims, None, 0)
    managed = _ManagedTensor(tensor, None, _DELETE)
    pointer = ctypes.addressof(managed)
    _given[pointer] = (owner, managed, dims)
    return _python.PyCapsule_New(pointer, FRESH, ctypes.cast(_FORGET_CAPSULE, ctypes.c_void_p))


def _delete(pointer: int) -> None:
    _given.pop(pointer, None)


def _forget_capsule(capsule: int) -> None:
    """Frees an array that nobody took: the capsule still bears its first name."""
    # The object is being destroyed: it is looked at by its address, so that no reference to it is made.
    valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))
    if valid(capsule, FRESH):
        _given.pop(pointer_of(capsule, FRESH), None)


# C calls these at any time: they live as long as the module.
_DELETE, _FORGET_CAPSULE = _DELETER(_delete), _DELETER(_forget_capsule)
