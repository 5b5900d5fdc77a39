"""Vectors: fixed-size rows of numbers for embeddings, stored so that reading one is a view of the bytes.

A vector is an Avro `fixed` with our logical type `vector`, so every Avro reader can carry it as bytes:

    {"type": "fixed", "name": "vector_float32_128", "size": 512, "logicalType": "vector", "dim": 128, "dtype": "float32"}

The numbers are little-endian. An `int8` vector begins with one float32, its scale: value = int8 * scale. Quantising takes
scale = max|x| / 127, rounds to the nearest, and so errs by at most scale / 2 per number; it is a choice made in the schema, never by us.

Thread rule: pure functions over immutable bytes; views are read-only. Source: our own; described in docs/internals/row-codec.md.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from mmap import mmap
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import SchemaError
from fondaco.schema.types import INT8_SCALE_BYTES, VECTOR_ITEM_BYTES, Vector, VectorDtype

_DTYPES: Final[dict[str, str]] = {"float32": "<f4", "float16": "<f2", "int8": "i1"}
_PLAIN_NUMBERS: Final = frozenset((float, int))
Buffer = bytes | bytearray | memoryview | mmap


def vector(dim: int, dtype: VectorDtype | npt.DTypeLike = "float32", name: str | None = None) -> dict[str, object]:
    """Declare a vector type, to be used wherever a schema takes a type.

    Args:
        dim: how many numbers, from 1; any integer.
        dtype: `"float32"`, `"float16"`, `"bfloat16"` or `"int8"` (with one float32 scale per value), or NumPy's type of that name.
        name: of the Avro fixed; the default names dim and dtype, so equal vectors are one type.
    Raises:
        SchemaError: dim or dtype is none of these.
    """
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim < 1 << 28:
        raise SchemaError("$", f"a vector needs dim, a count of numbers from 1, not {dim!r}")
    kind = Vector(int(dim), _dtype_name(dtype))
    return {
        "type": "fixed",
        "name": name or f"vector_{kind.dtype}_{kind.dim}",
        "size": kind.size,
        "logicalType": "vector",
        "dim": kind.dim,
        "dtype": kind.dtype,
    }


def _dtype_name(dtype: object) -> VectorDtype:
    name = dtype
    if not isinstance(dtype, str) and dtype is not None:
        with contextlib.suppress(TypeError):
            name = np.dtype(dtype).name  # type: ignore[call-overload]
    if not isinstance(name, str) or name not in VECTOR_ITEM_BYTES:
        raise SchemaError("$", f"vector dtype {dtype!r}; use one of {list(VECTOR_ITEM_BYTES)}")
    return name


def vector_dtype(dtype: VectorDtype) -> np.dtype[Any]:
    """NumPy dtype of the numbers in the bytes, little-endian; bfloat16 comes from ml_dtypes."""
    if dtype == "bfloat16":
        import ml_dtypes

        return cast("np.dtype[Any]", np.dtype(ml_dtypes.bfloat16))
    return np.dtype(_DTYPES[dtype])


class QuantizedVector:
    """An int8 vector with its scale. `values` is int8, shape [dim], a view; `np.asarray(v)` and `to_float32()` dequantise."""

    __slots__ = ("scale", "values")

    def __init__(self, values: np.ndarray[Any, np.dtype[np.int8]], scale: float) -> None:
        self.values, self.scale = values, scale

    def to_float32(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """values * scale, float32, shape [dim]."""
        return self.values.astype(np.float32) * np.float32(self.scale)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("a QuantizedVector cannot become an array without a copy")
        numbers = self.to_float32()
        return numbers if dtype is None else numbers.astype(dtype)

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantizedVector):
            return NotImplemented
        return bool(self.scale == other.scale and np.array_equal(self.values, other.values))

    __hash__ = None  # type: ignore[assignment]  # holds an array, like which it is compared and not hashed

    def __repr__(self) -> str:
        return f"QuantizedVector({np.array2string(self.values, threshold=8)}, scale={self.scale!r})"


def view_vector(kind: Vector, data: Buffer, offset: int = 0) -> Any:
    """The vector at byte `offset` of `data`: a view of `data` (not aligned in general), shape [dim]; `QuantizedVector` for int8."""
    if kind.dtype == "int8":
        scale = np.frombuffer(data, "<f4", 1, offset)[0]
        return QuantizedVector(np.frombuffer(data, np.int8, kind.dim, offset + INT8_SCALE_BYTES), float(scale))
    return np.frombuffer(data, vector_dtype(kind.dtype), kind.dim, offset)


def vector_bytes(kind: Vector, value: Any) -> bytes:
    """The bytes of `value`, a QuantizedVector or any sequence of `dim` numbers.

    Raises:
        ValueError: the reason, for the caller to complete with the place: another length, not numbers, or too large for the dtype.
    """
    if isinstance(value, QuantizedVector):
        if kind.dtype == "int8":
            if len(value.values) != kind.dim:
                raise ValueError(f"{kind.dim} numbers, not {len(value.values)}")
            return np.float32(value.scale).tobytes() + np.ascontiguousarray(value.values, np.int8).tobytes()
        value = value.to_float32()
    numbers = float_block(value, vector_dtype(kind.dtype) if kind.dtype != "int8" else np.dtype("<f4"))
    if len(numbers) != kind.dim:
        raise ValueError(f"{kind.dim} numbers, not {len(numbers)}")
    return quantize(numbers) if kind.dtype == "int8" else numbers.tobytes()


def vector_writer(kind: Vector) -> Callable[[Any], bytes]:
    """`vector_bytes` for one kind, faster for the common one: float32 from a list or an array."""
    if kind.dtype != "float32":
        return lambda value: vector_bytes(kind, value)
    dim, dtype, pack = kind.dim, vector_dtype("float32"), struct.Struct(f"<{kind.dim}f").pack

    def write(value: Any) -> bytes:
        if type(value) is np.ndarray and value.dtype == dtype and value.shape == (dim,):
            return value.tobytes()
        if type(value) is list and len(value) == dim and _PLAIN_NUMBERS.issuperset(map(type, value)):
            try:
                return pack(*value)
            except OverflowError:
                raise ValueError("numbers within the range of float32") from None
        return vector_bytes(kind, value)

    return write


def quantize(numbers: np.ndarray[Any, Any]) -> bytes:
    """float32 [dim] -> scale and int8 numbers, as an int8 vector holds them.

    Raises:
        ValueError: a number is not finite: a scale cannot say so.
    """
    largest = float(np.max(np.abs(numbers))) if len(numbers) else 0.0
    if not np.isfinite(largest):
        raise ValueError("finite numbers (an int8 vector has no NaN or infinity)")
    scale = np.float32(largest / 127)
    if scale == 0:  # all zero, or so small that float32 has no scale for them
        return np.float32(0).tobytes() + bytes(len(numbers))
    steps = np.clip(np.rint(numbers.astype(np.float64) / np.float64(scale)), -127, 127)
    return scale.tobytes() + steps.astype(np.int8).tobytes()


def float_block(value: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """`value` as a contiguous one-dimensional array of `dtype` (a float), little-endian; no copy when it is one already.

    Raises:
        ValueError: not one-dimensional, not numbers (booleans and text are none), or a finite number beyond the range of `dtype`.
    """
    if type(value) is np.ndarray and value.dtype == dtype and value.ndim == 1:
        return np.ascontiguousarray(value)
    if isinstance(value, str | bytes | bytearray | dict | set):
        raise ValueError("a sequence of numbers")
    try:
        source = np.asarray(value)
    except (ValueError, TypeError):
        raise ValueError("a flat sequence of numbers") from None
    if source.ndim != 1:
        raise ValueError("a flat sequence of numbers")
    if source.size == 0:
        return np.empty(0, dtype)
    if source.dtype.kind not in "iuf" and source.dtype != vector_dtype("bfloat16"):
        raise ValueError("a sequence of numbers")
    if isinstance(value, list | tuple) and not {bool, np.bool_}.isdisjoint(map(type, value)):
        raise ValueError("a sequence of numbers")  # NumPy reads [True, 0.5] as floats
    with np.errstate(over="ignore", invalid="ignore"):
        block = source.astype(dtype)
    if not np.isfinite(block).all() and (np.isfinite(block) != np.isfinite(source)).any():
        raise ValueError(f"numbers within the range of {np.dtype(dtype).name}")
    return cast("np.ndarray[Any, Any]", block)
