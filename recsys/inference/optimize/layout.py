"""Where the tensors of a call lie: in tuples, lists, dicts and KeyedJaggedTensors, between constants."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from recsys.errors import DataError

__all__ = ["Layout", "keyed_jagged", "layout"]

_CONSTANTS = (bool, int, float, str, type(None))


def keyed_jagged() -> Any:
    """Torchrec's KeyedJaggedTensor; None where torchrec has not been loaded, so that there can be none."""
    return getattr(sys.modules.get("torchrec.sparse.jagged_tensor"), "KeyedJaggedTensor", None)


class Layout(Protocol):
    """A value with its tensors taken out."""

    def take(self, value: Any, leaves: list[Tensor]) -> bool:
        """Append the tensors of a value that is laid out so; False, with some of them appended, if it is not."""

    def make(self, leaves: Sequence[Tensor]) -> Any:
        """The value with these tensors; places in `leaves` are as `take` appended them to an empty list."""


@dataclass(frozen=True)
class _Leaf:
    """A tensor on the CPU, of a rank and a type."""

    at: int
    rank: int
    dtype: torch.dtype

    def take(self, value: Any, leaves: list[Tensor]) -> bool:
        leaves.append(value)
        return isinstance(value, Tensor) and value.dtype is self.dtype and value.dim() == self.rank and value.is_cpu

    def make(self, leaves: Sequence[Tensor]) -> Any:
        return leaves[self.at]


@dataclass(frozen=True)
class _Jagged:
    """A KeyedJaggedTensor: values [nnz], offsets [keys · B + 1], weights [nnz] if it has some.

    One with a stride for each key, or whose examples were deduplicated, is laid out otherwise.
    """

    at: int
    keys: list[str]
    weighted: bool

    def take(self, value: Any, leaves: list[Tensor]) -> bool:
        if type(value) is not keyed_jagged() or value.keys() != self.keys or _unusual(value):
            return False
        weights = value.weights_or_none()
        leaves += [value.values(), value.offsets()]
        if weights is not None:
            leaves.append(weights)
        return (weights is not None) == self.weighted

    def make(self, leaves: Sequence[Tensor]) -> Any:
        values, offsets = leaves[self.at : self.at + 2]
        weights = leaves[self.at + 2] if self.weighted else None
        return keyed_jagged()(self.keys, values, weights, offsets=offsets)


def _unusual(jagged: Any) -> bool:
    return jagged.variable_stride_per_key() or jagged.inverse_indices_or_none() is not None


@dataclass(frozen=True)
class _Row:
    """A tuple, named or not, or a list."""

    kind: Any
    items: tuple[Layout, ...]

    def take(self, value: Any, leaves: list[Tensor]) -> bool:
        if type(value) is not self.kind or len(value) != len(self.items):
            return False
        return all(item.take(one, leaves) for item, one in zip(self.items, value, strict=True))

    def make(self, leaves: Sequence[Tensor]) -> Any:
        return _maker(self.kind)(item.make(leaves) for item in self.items)


def _maker(kind: Any) -> Callable[[Iterable[Any]], Any]:
    """What makes a tuple or a list of its items: named ones take them one by one."""
    found: Callable[[Iterable[Any]], Any] = getattr(kind, "_make", kind)
    return found


@dataclass(frozen=True)
class _Names:
    """A dict with names as keys."""

    kind: Any
    items: dict[str, Layout]

    def take(self, value: Any, leaves: list[Tensor]) -> bool:
        if type(value) is not self.kind or value.keys() != self.items.keys():
            return False
        return all(item.take(value[name], leaves) for name, item in self.items.items())

    def make(self, leaves: Sequence[Tensor]) -> Any:
        return self.kind((name, item.make(leaves)) for name, item in self.items.items())


@dataclass(frozen=True)
class _Constant:
    """A number, a text or None, always the same."""

    value: Any

    def take(self, value: Any, leaves: list[Tensor]) -> bool:
        return type(value) is type(self.value) and bool(value == self.value)

    def make(self, leaves: Sequence[Tensor]) -> Any:
        return self.value


def layout(value: Any, where: str, leaves: list[Tensor]) -> Layout:
    """How a value is laid out; its tensors are appended to `leaves`.

    Args:
        value: Of nested tuples, lists and dicts.
        where: What it is, for the error.
        leaves: Of what came before it.

    Raises:
        DataError: When it holds what is neither tensor nor KeyedJaggedTensor nor constant.
    """
    if isinstance(value, Tensor):
        leaves.append(value)
        return _Leaf(len(leaves) - 1, value.dim(), value.dtype)
    if isinstance(value, _CONSTANTS):
        return _Constant(value)
    if type(value) in (tuple, list) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return _Row(type(value), tuple(layout(one, f"{where}[{k}]", leaves) for k, one in enumerate(value)))
    if type(value) in (dict, OrderedDict) and all(isinstance(name, str) for name in value):
        items = {name: layout(one, f"{where}[{name!r}]", leaves) for name, one in value.items()}
        return _Names(type(value), items)
    if type(value) is keyed_jagged() and not _unusual(value):
        found = _Jagged(len(leaves), value.keys(), value.weights_or_none() is not None)
        found.take(value, leaves)
        return found
    raise DataError(
        f"{where} is a {type(value).__name__}: expected tensors, KeyedJaggedTensors of one stride, numbers and text, "
        "in tuples, lists and dicts"
    )
