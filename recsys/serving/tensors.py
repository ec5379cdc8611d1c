"""Tensors of the Open Inference Protocol v2, from and to JSON.

A tensor has the name of a column. A feature of one value a row takes shape [n] or [n, 1]. A multi-valued or sequence
feature takes [n, L]; the protocol knows no ragged tensors, so shorter lists are filled up: ``null`` anywhere, or empty
text, is no value and left out. Where the schema names a separator, BYTES of shape [n] such as "a|b" do as well.

Elsewhere ``null`` is a missing value, and a tensor that is left out is missing in every row. Numbers are taken as they
are written, in double precision, also as FP16 or FP32. Any type may name a category: 5, 5.0 and "5" are the same one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import pyarrow as pa

from recsys.data.rows import FEW
from recsys.serving.body import check_keys
from recsys.serving.columns import Column, check, check_names
from recsys.serving.limits import Limits
from recsys.serving.refusals import Refused, closest, shown

__all__ = ["Asked", "ask", "described", "rows"]

_BOOL, _INTS, _FLOATS, _TEXT = (frozenset({*kinds, NoneType}) for kinds in ((bool,), (int,), (int, float), (str,)))
_TYPES: dict[str, tuple[frozenset[type], pa.DataType]] = {
    "BOOL": (_BOOL, pa.bool_()),
    **{f"INT{bits}": (_INTS, pa.int64()) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (_INTS, pa.uint64()) for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": (_FLOATS, pa.float64()) for bits in (16, 32, 64)},
    "BYTES": (_TEXT, pa.large_string()),
}
_LARGEST = {"FP16": 65504.0, "FP32": 3.4028235677973366e38}
"""What still rounds to a finite number."""


@dataclass(frozen=True)
class _Tensor:
    column: Column
    values: list[Any]
    type: pa.DataType


@dataclass(frozen=True)
class Asked:
    """An inference that can be computed; `outputs` are names of tasks."""

    id: str | None
    rows: int
    tensors: list[_Tensor]
    outputs: list[str]


def described(columns: Mapping[str, Column], tasks: Sequence[str], datatype: str) -> dict[str, Any]:
    """The inputs and outputs of a model's metadata."""
    return {
        "inputs": [
            {
                "name": column.name,
                "datatype": "FP64" if column.numeric else "BYTES",
                "shape": [-1, -1] if column.listed else [-1],
            }
            for column in columns.values()
        ],
        "outputs": [{"name": task, "datatype": datatype, "shape": [-1]} for task in tasks],
    }


def ask(found: dict[str, Any], columns: Mapping[str, Column], tasks: Sequence[str], limits: Limits) -> Asked:
    """What a request asks for.

    Raises:
        Refused: 422 or 413; see `recsys.serving.refusals`.
    """
    check_keys(found, ("inputs",), ("id", "parameters", "outputs"), "the request")
    _check_parameters(found, "the request")
    name, inputs = found.get("id"), found["inputs"]
    if name is not None and not isinstance(name, str):
        raise Refused(422, f"`id`: expected text, got {shown(name)}")
    if not isinstance(inputs, list) or not inputs:
        raise Refused(422, "`inputs`: expected a list of one tensor or more; a feature that is left out is missing")
    tensors = [_tensor(one, columns, limits) for one in inputs]
    sizes = {tensor.column.name: len(tensor.values) for tensor in tensors}
    if len(sizes) < len(tensors):
        raise Refused(422, "`inputs`: two tensors have the same name")
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"`{one}` {size:,}" for one, size in sizes.items())
        raise Refused(422, f"`inputs`: expected as many rows in every tensor, got {told}")
    return Asked(name, len(tensors[0].values), tensors, _outputs(found.get("outputs"), tasks))


def _check_parameters(found: dict[str, Any], where: str) -> None:
    """They mean nothing here, but nobody shall get JSON who asks for bytes."""
    parameters = found.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refused(422, f"{where}: `parameters`: expected an object, got {shown(parameters)}")
    for key in ("binary_data", "binary_data_output", "binary_data_size"):
        if parameters.get(key, False) is not False:
            raise Refused(422, f"{where}: `{key}`: binary data is not served: leave it out, and send and take JSON")


def _outputs(outputs: Any, tasks: Sequence[str]) -> list[str]:
    if outputs is None:
        return list(tasks)
    if not isinstance(outputs, list) or not all(isinstance(one, dict) for one in outputs):
        raise Refused(422, "`outputs`: expected a list of objects with a `name`")
    for one in outputs:
        check_keys(one, ("name",), ("parameters",), "an output")
        _check_parameters(one, "an output")
        name = one["name"]
        if not isinstance(name, str) or name not in tasks:
            raise Refused(422, f"`{shown(name)}` is no output of this model: {closest(str(name)[:60], tasks)}")
    return list(dict.fromkeys(one["name"] for one in outputs)) or list(tasks)


def _tensor(one: Any, columns: Mapping[str, Column], limits: Limits) -> _Tensor:
    if not isinstance(one, dict):
        raise Refused(422, f"`inputs`: expected objects, got {shown(one)}")
    _check_parameters(one, "an input")  # first, for binary data comes without `data`
    check_keys(one, ("name", "shape", "datatype", "data"), ("parameters",), "an input")
    name = one["name"]
    if not isinstance(name, str):
        raise Refused(422, f"an input: `name`: expected text, got {shown(name)}")
    check_names([name], columns)
    column, datatype = columns[name], one["datatype"]
    if not isinstance(datatype, str) or datatype not in _TYPES:
        raise Refused(422, f"input `{name}`: no such datatype as `{shown(datatype)}`: known: {', '.join(_TYPES)}")
    rows, width = _shape(one["shape"], column, datatype, limits)
    flat = _flat(one["data"], name, rows, width)
    _check_elements(flat, name, datatype)
    kind = _TYPES[datatype][1]
    if width is not None and column.listed:
        values = [[v for v in flat[i * width : (i + 1) * width] if v is not None and v != ""] for i in range(rows)]
        kind = pa.large_list(kind)
    else:
        values = flat
    check(column, values)
    return _Tensor(column, values, kind)


def _shape(shape: Any, column: Column, datatype: str, limits: Limits) -> tuple[int, int | None]:
    """Rows and, of two dimensions, the second."""
    where = f"input `{column.name}`"
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2 or any(type(n) is not int or n < 0 for n in shape):
        raise Refused(422, f"{where}: `shape`: expected one or two integers of 0 or more")
    if shape[0] > limits.max_rows:
        raise Refused(413, f"{where}: more than {limits.max_rows:,} rows: send fewer at a time")
    if shape[-1] > limits.max_bytes:  # before anything is computed with it, for it may have thousands of digits
        raise Refused(413, f"{where}: more than {limits.max_bytes:,} values in a row, which no body can hold")
    if len(shape) == 1 and column.listed and not (str in column.kinds and datatype == "BYTES"):
        raise Refused(422, f"{where}: expected shape [n, L], for a row has any number of values; null fills up")
    if len(shape) == 2 and not column.listed and shape[1] != 1:
        raise Refused(422, f"{where}: expected shape [n] or [n, 1], for a row has one value")
    return shape[0], shape[1] if len(shape) == 2 else None


def _flat(data: Any, name: str, rows: int, width: int | None) -> list[Any]:
    """The elements, row after row; data may be nested as its shape is, or flat."""
    if not isinstance(data, list):
        raise Refused(422, f"input `{name}`: `data`: expected a list, got {shown(data)}; binary data is not served")
    if width is not None and data and isinstance(data[0], list):
        if len(data) != rows or not all(isinstance(row, list) and len(row) == width for row in data):
            raise Refused(422, f"input `{name}`: `data` has not the shape [{rows}, {width}]")
        return [element for row in data for element in row]
    size = rows * (1 if width is None else width)
    if len(data) != size:
        raise Refused(422, f"input `{name}`: expected {size:,} elements by its shape, got {len(data):,}")
    return data


def _check_elements(flat: Sequence[Any], name: str, datatype: str) -> None:
    """Every element is of the type that the tensor says."""
    kinds = set(map(type, flat))
    if not kinds <= _TYPES[datatype][0]:
        raise Refused(422, f"input `{name}`: an element of its data is no {datatype}")
    there = [value for value in flat if value is not None]
    if not there or datatype in ("BOOL", "BYTES"):
        return
    low, high = _range(datatype)
    if min(there) < low or max(there) > high:
        raise Refused(422, f"input `{name}`: a number is beyond what {datatype} can hold")


def _range(datatype: str) -> tuple[float, float]:
    if datatype.startswith("FP"):
        largest = _LARGEST.get(datatype, math.nextafter(math.inf, 0))
        return -largest, largest
    bits = int(datatype.rpartition("INT")[2])
    return (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def rows(asked: Asked) -> list[dict[str, Any]] | pa.Table:
    """The rows as a session takes them soonest: a few as dicts, many as a table."""
    names = [tensor.column.name for tensor in asked.tensors]
    if asked.rows > FEW:
        return pa.table([pa.array(_typed(tensor), tensor.type) for tensor in asked.tensors], names)
    return [
        dict(zip(names, row, strict=True)) for row in zip(*(tensor.values for tensor in asked.tensors), strict=True)
    ]


def _typed(tensor: _Tensor) -> list[Any]:
    """Whole numbers of a float tensor as floats: Arrow refuses those that lose a digit."""
    if tensor.type == pa.float64():
        return [_float(value) for value in tensor.values]
    if tensor.type == pa.large_list(pa.float64()):
        return [[_float(one) for one in value] for value in tensor.values]
    return tensor.values


def _float(value: Any) -> Any:
    return float(value) if type(value) is int else value
