"""What flows from data to models: ids packed feature-major, and a batch of encoded examples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from recsys.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Batch", "JaggedIds"]


@dataclass(frozen=True)
class JaggedIds:
    """The ids of all features of a batch, packed feature-major as torchrec's KeyedJaggedTensor packs them.

    Bag ``b`` of feature ``f`` is ``values[offsets[f * B + b] : offsets[f * B + b + 1]]``.

    Attributes:
        features: Names of the F features, in order.
        values: [nnz] int32 or int64, rows of the features' tables.
        offsets: [F * B + 1], or None when every bag holds exactly one id.
        weights: [nnz] float32, or None.
    """

    features: tuple[str, ...]
    values: Tensor
    offsets: Tensor | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.dtype not in (torch.int32, torch.int64):
            raise DataError(f"ids must be int32 or int64, got {self.values.dtype}")
        bags = self.values.numel() if self.offsets is None else self.offsets.numel() - 1
        if bags < 0 or (self.features and bags % len(self.features)) or (not self.features and bags):
            raise DataError(f"{bags} bags cannot be shared out evenly among {len(self.features)} features")

    @property
    def size(self) -> int:
        """B, the number of examples; 0 when there are no features."""
        bags = self.values.numel() if self.offsets is None else self.offsets.numel() - 1
        return bags // len(self.features) if self.features else 0

    def lengths(self) -> Tensor:
        """[F, B] int64: how many ids each bag holds."""
        if self.offsets is None:
            return torch.ones(len(self.features), self.size, dtype=torch.int64, device=self.values.device)
        return self.offsets.diff().view(len(self.features), self.size).long()

    def full_offsets(self) -> Tensor:
        """[F * B + 1] offsets, made when every bag holds one id."""
        if self.offsets is not None:
            return self.offsets
        return torch.arange(self.values.numel() + 1, device=self.values.device)

    def check(self) -> Self:
        """Make sure that offsets ascend within the values and that each id has its weight, in O(F * B).

        Raises:
            DataError: When they do not; what reads bags would read memory that is not theirs.
        """
        n, offsets = self.values.numel(), self.offsets
        if self.weights is not None and self.weights.numel() != n:
            raise DataError(f"expected a weight for each of the {n} ids, got {self.weights.numel()}")
        if offsets is not None and not (
            int(offsets[0]) >= 0 and int(offsets[-1]) <= n and bool((offsets[1:] >= offsets[:-1]).all())
        ):
            raise DataError(f"offsets must ascend from 0 to at most the number of ids, which is {n}")
        return self

    def take(self, rows: Tensor) -> JaggedIds:
        """The bags of the examples `rows` [M], in that order."""
        if not self.features:
            return self
        if self.offsets is None:
            picked = self.values.view(len(self.features), -1)[:, rows].reshape(-1)
            weights = None if self.weights is None else self.weights.view(len(self.features), -1)[:, rows].reshape(-1)
            return replace(self, values=picked, weights=weights)
        # Of these rows only: `lengths` goes over all, and training takes small batches out of large windows.
        bounds = self.offsets[:-1], self.offsets[1:]
        starts, ends = (part.view(len(self.features), -1)[:, rows].reshape(-1) for part in bounds)
        lengths = (ends - starts).long()
        offsets = torch.zeros(lengths.numel() + 1, dtype=self.offsets.dtype, device=lengths.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        index = torch.arange(int(offsets[-1]), device=lengths.device)
        index += torch.repeat_interleave(starts - offsets[:-1], lengths)
        weights = None if self.weights is None else self.weights[index]
        return replace(self, values=self.values[index], offsets=offsets, weights=weights)

    def slice(self, start: int, stop: int) -> JaggedIds:
        """The bags of the examples from `start` up to `stop`: what `take` gives of these, sooner."""
        if not self.features:
            return self
        if self.offsets is not None:
            return self._jagged(self.offsets, start, stop)
        parts = (None if one is None else one.view(len(self.features), -1) for one in (self.values, self.weights))
        values, weights = (None if one is None else one[:, start:stop].reshape(-1) for one in parts)
        assert values is not None
        return replace(self, values=values, weights=weights)

    def _jagged(self, offsets: Tensor, start: int, stop: int) -> JaggedIds:
        """Bags of any length: those of one feature lie side by side, so that they are views, put one after another."""
        features, size = len(self.features), self.size
        begins, ends = (part.view(features, size)[:, start:stop] for part in (offsets[:-1], offsets[1:]))
        fresh = offsets.new_zeros(begins.numel() + 1)
        torch.cumsum((ends - begins).reshape(-1), 0, out=fresh[1:])
        firsts = torch.arange(features, device=offsets.device) * size + min(start, size)
        bounds = (offsets[at].tolist() for at in (firsts, firsts + begins.shape[1]))
        parts = [slice(*part) for part in zip(*bounds, strict=True)]
        weights = None if self.weights is None else torch.cat([self.weights[part] for part in parts])
        return replace(self, values=torch.cat([self.values[part] for part in parts]), offsets=fresh, weights=weights)

    def to(self, device: torch.device | str) -> JaggedIds:
        """The same ids on another device."""
        return replace(
            self,
            values=self.values.to(device),
            offsets=_moved(self.offsets, device),
            weights=_moved(self.weights, device),
        )

    @classmethod
    def concat(cls, parts: Sequence[JaggedIds]) -> JaggedIds:
        """The examples of all parts, one after the other; the parts must hold the same features."""
        first = parts[0]
        if any(part.features != first.features for part in parts):
            raise DataError("batches with different features cannot be joined")
        if len(parts) == 1:
            return first
        features = [_join([part.feature(f) for part in parts]) for f in range(len(first.features))]
        return cls.stack(first.features, features)

    def feature(self, f: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Values, lengths [B] (None: one each) and weights of the feature at position `f`."""
        size = self.size
        if self.offsets is None:
            part = slice(f * size, (f + 1) * size)
            return self.values[part], None, None if self.weights is None else self.weights[part]
        offsets = self.offsets[f * size : (f + 1) * size + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        return self.values[part], offsets.diff(), None if self.weights is None else self.weights[part]

    @classmethod
    def stack(
        cls, features: tuple[str, ...], parts: Sequence[tuple[Tensor, Tensor | None, Tensor | None]]
    ) -> JaggedIds:
        """Pack features given one by one as (values, lengths or None, weights or None)."""
        if not parts:
            return cls(features, torch.zeros(0, dtype=torch.int64))
        values = torch.cat([part[0] for part in parts])
        weights = torch.cat([_weights(part) for part in parts]) if any(p[2] is not None for p in parts) else None
        if all(part[1] is None for part in parts):
            return cls(features, values, None, weights)
        lengths = torch.cat([_lengths(part) for part in parts])
        offsets = torch.zeros(lengths.numel() + 1, dtype=torch.int64, device=lengths.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        return cls(features, values, offsets, weights)

    def to_kjt(self) -> Any:
        """The same ids as a torchrec KeyedJaggedTensor; values, offsets and weights share memory.

        Raises:
            MissingExtraError: Without torchrec.
        """
        try:
            with warnings.catch_warnings():  # FBGEMM's CPU build warns of each kernel that it leaves out
                warnings.simplefilter("ignore")
                from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
        except ImportError as error:
            raise MissingExtraError(f"to_kjt needs torchrec ({error}): run `python -m recsys.install`") from None
        return KeyedJaggedTensor(
            keys=list(self.features),
            values=self.values,
            weights=self.weights,
            offsets=self.full_offsets(),
            length_per_key=None if self.size else [0] * len(self.features),  # torchrec cannot tell for B = 0
        )

    @classmethod
    def from_kjt(cls, kjt: Any) -> Self:
        """Take over a torchrec KeyedJaggedTensor; values, offsets and weights share memory."""
        return cls(tuple(kjt.keys()), kjt.values(), kjt.offsets(), kjt.weights_or_none())


Part = tuple[Tensor, Tensor | None, Tensor | None]


def _lengths(part: Part) -> Tensor:
    return torch.ones_like(part[0], dtype=torch.int64) if part[1] is None else part[1].long()


def _weights(part: Part) -> Tensor:
    return torch.ones_like(part[0], dtype=torch.float32) if part[2] is None else part[2]


def _join(parts: Sequence[Part]) -> Part:
    values = torch.cat([part[0] for part in parts])
    lengths = None if all(part[1] is None for part in parts) else torch.cat([_lengths(part) for part in parts])
    weights = None if all(part[2] is None for part in parts) else torch.cat([_weights(part) for part in parts])
    return values, lengths, weights


@dataclass(frozen=True)
class Batch:
    """One batch of B encoded examples.

    Attributes:
        dense: [B, N] float32 numbers.
        ids: The ids of F features.
        labels: [B, tasks] float64, or None when scoring.
        groups: [B] int64 codes of users, or None.
        keys: The columns that a scoring job keeps, B rows, or None.
    """

    dense: Tensor
    ids: JaggedIds
    labels: Tensor | None = None
    groups: Tensor | None = None
    keys: pa.Table | None = None

    def __len__(self) -> int:
        return self.dense.shape[0]

    def take(self, rows: Tensor) -> Batch:
        """The examples `rows` [M] (int64), in that order."""
        return Batch(
            dense=self.dense[rows],
            ids=self.ids.take(rows),
            labels=None if self.labels is None else self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            keys=None if self.keys is None else self.keys.take(rows.numpy()),
        )

    def slice(self, start: int, stop: int) -> Batch:
        """The examples from `start` up to `stop`."""
        stop = max(start, min(stop, len(self)))
        return Batch(
            dense=self.dense[start:stop],
            ids=self.ids.slice(start, stop),
            labels=None if self.labels is None else self.labels[start:stop],
            groups=None if self.groups is None else self.groups[start:stop],
            keys=None if self.keys is None else self.keys.slice(start, stop - start),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on another device."""
        return replace(
            self,
            dense=self.dense.to(device),
            ids=self.ids.to(device),
            labels=_moved(self.labels, device),
            groups=_moved(self.groups, device),
        )

    @classmethod
    def concat(cls, parts: Sequence[Batch]) -> Batch:
        """The examples of all parts, one after the other; key columns are dropped."""
        if not parts:
            raise DataError("no batches to join: the data has no rows")
        return cls(
            dense=torch.cat([part.dense for part in parts]),
            ids=JaggedIds.concat([part.ids for part in parts]),
            labels=_cat([part.labels for part in parts]),
            groups=_cat([part.groups for part in parts]),
        )


def _moved(tensor: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None
