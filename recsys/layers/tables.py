"""Embedding tables: every look-up of a model, written into the network's input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.data.batch import Batch, JaggedIds

__all__ = ["EmbeddingTables", "InputLayout", "Lookup", "Table", "TableSpec"]


@dataclass(frozen=True)
class Table:
    """A table of `rows` rows of `dim` float32 columns.

    Row 0 is "unknown". The first `reserved` rows stand for no value and start as zeros: training may never show them.
    """

    name: str
    rows: int
    dim: int
    reserved: int = 1


@dataclass(frozen=True)
class Lookup:
    """One feature read from one table; `none` leaves the rows of a bag in order, unpooled.

    Look-ups of one `field` stand one after the other and have one dim; together they make one embedding.
    """

    name: str
    feature: str
    table: str
    pooling: Literal["sum", "mean", "none"] = "sum"
    field: str = ""
    """By default the look-up's own name."""

    @property
    def slot(self) -> str:
        """The name of what it fills, alone or with others."""
        return self.field or self.name


@dataclass(frozen=True)
class InputLayout:
    """Named column slices of the network's input: the numbers first, then one slice a field of pooled look-ups."""

    dense: slice
    slices: dict[str, slice]
    sequences: dict[str, int]
    """Unpooled look-ups and their dims: these come beside the buffer."""
    width: int

    def stack(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """[B, F, d]: the embeddings of fields that lie side by side and have one dim, without a copy."""
        first, last = self.slices[names[0]], self.slices[names[-1]]
        return x[:, first.start : last.stop].view(x.shape[0], len(names), first.stop - first.start)


@dataclass(frozen=True)
class TableSpec:
    """What is looked up where, without the rows.

    Attributes:
        features: Names of the features in a batch, in order.
        tables: Every table.
        lookups: What is read; pooled look-ups of one dim lie side by side, in this order, the first one's dim first.
        dense: How many numbers come first in the network's input.
    """

    features: tuple[str, ...]
    tables: tuple[Table, ...]
    lookups: tuple[Lookup, ...]
    dense: int = 0

    @cached_property
    def table(self) -> dict[str, Table]:
        """Every table by its name."""
        return {table.name: table for table in self.tables}

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """The dims of tables that are read, in the order of the first look-up of each."""
        return tuple(dict.fromkeys(self.table[lookup.table].dim for lookup in self.lookups))

    @cached_property
    def pooled(self) -> tuple[Lookup, ...]:
        """The pooled look-ups in the order of the columns that they fill."""
        pooled = [lookup for lookup in self.lookups if lookup.pooling != "none"]
        return tuple(sorted(pooled, key=lambda lookup: self.dims.index(self.table[lookup.table].dim)))

    @cached_property
    def layout(self) -> InputLayout:
        """Named column slices of the network's input."""
        slices: dict[str, slice] = {}
        sequences: dict[str, int] = {}
        at = self.dense
        for lookup in self.pooled:
            start = slices[lookup.slot].start if lookup.slot in slices else at
            at += self.table[lookup.table].dim
            slices[lookup.slot] = slice(start, at)
        for lookup in self.lookups:
            if lookup.pooling == "none":
                sequences[lookup.slot] = sequences.get(lookup.slot, 0) + self.table[lookup.table].dim
        return InputLayout(slice(0, self.dense), slices, sequences, at)


class _Group(nn.Module):
    """All tables of one dim in one storage [sum of rows, dim], so that a batch takes one look-up a dim."""

    def __init__(self, tables: list[Table], collision_weights: bool, std: float) -> None:
        super().__init__()
        self.tables = {table.name: table for table in tables}
        ends = list(accumulate(table.rows for table in tables))
        self.start = {table.name: end - table.rows for table, end in zip(tables, ends, strict=True)}
        self.storage = nn.Parameter(torch.empty(ends[-1], tables[0].dim))
        self.collision = nn.Parameter(torch.ones(ends[-1], 1)) if collision_weights else None
        with torch.no_grad():
            self.storage.normal_(0.0, std)
            for table in tables:
                self.storage[self.start[table.name] :][: table.reserved] = 0.0

    def forward(self, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted sums of rows: [bags, dim]."""
        if self.collision is not None:
            scale = F.embedding(ids, self.collision, sparse=True).squeeze(1)
            weights = scale if weights is None else weights * scale
        return F.embedding_bag(ids, self.storage, offsets, mode="sum", per_sample_weights=weights, sparse=True)

    def rows(self, ids: Tensor) -> Tensor:
        """Single rows, unpooled: [..., dim]."""
        rows = F.embedding(ids, self.storage, sparse=True)
        return rows if self.collision is None else rows * F.embedding(ids, self.collision, sparse=True)

    # `EmbeddingTables` saves and loads table by table; the storage itself is nobody's business.
    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        pass


class EmbeddingTables(nn.Module):
    """All tables of a model, and the look-ups that fill its input.

    Tables of one dim share one storage; features map to tables many-to-one (a shared table) and one-to-many (a
    second table of dim 1 for first-order terms). Gradients are row-sparse. An id out of range reads row 0.

    With *collision weights* each row carries one learnable scalar w, starting at 1: the look-up gives ``w · e``
    (DCN², arXiv 2506.21624, section 3.1). ``w · e`` spans what ``e`` spans, so `fold` makes them one at export and
    serving them costs nothing.

    Args:
        features: Names of the features in a batch, in order.
        tables: Every table.
        lookups: What is read; pooled look-ups of one dim lie side by side, in this order, the first one's dim first.
        dense: How many numbers come first in the network's input.
        collision_weights: One learnable scalar a row.
        std: Standard deviation of the rows at the start.
    """

    def __init__(
        self,
        features: Sequence[str],
        tables: Sequence[Table],
        lookups: Sequence[Lookup],
        dense: int = 0,
        collision_weights: bool = False,
        std: float = 0.01,
    ) -> None:
        super().__init__()
        self.spec = TableSpec(tuple(features), tuple(tables), tuple(lookups), dense)
        self.tables, self.lookups, self.layout = self.spec.table, self.spec.lookups, self.spec.layout
        self.position = {feature: f for f, feature in enumerate(features)}
        self.groups = nn.ModuleDict(
            {
                str(dim): _Group([t for t in tables if t.dim == dim], collision_weights, std)
                for dim in dict.fromkeys(table.dim for table in tables)
            }
        )

    def group(self, table: str) -> _Group:
        """The group that stores `table`."""
        group = self.groups[str(self.tables[table].dim)]
        assert isinstance(group, _Group)
        return group

    def forward(self, batch: Batch, out: Tensor | None = None) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Look everything up.

        Args:
            batch: B examples.
            out: [B, width] buffer to fill instead of allocating one; inference only.

        Returns:
            x [B, width], and for each unpooled look-up its name -> (rows [B, L, dim], lengths [B]).
        """
        parts = [batch.dense]
        for dim in self.spec.dims:
            lookups = [n for n in self.spec.pooled if self.tables[n.table].dim == dim]
            if lookups:
                parts.append(self._pool(lookups, batch.ids, len(batch)))
        sequences = {name: self._sequences(name, batch.ids) for name in self.layout.sequences}
        return torch.cat(parts, dim=1, out=out), sequences

    def _sequences(self, slot: str, ids: JaggedIds) -> tuple[Tensor, Tensor]:
        """(rows [B, L, dim], lengths [B]) of the unpooled look-ups of a field, side by side."""
        found = [self._sequence(lookup, ids) for lookup in self.lookups if lookup.slot == slot]
        return found[0] if len(found) == 1 else (torch.cat([rows for rows, _ in found], dim=2), found[0][1])

    def _pool(self, lookups: list[Lookup], ids: JaggedIds, size: int) -> Tensor:
        """[B, len(lookups) * dim]: the pooled rows of look-ups of one dim."""
        group = self.group(lookups[0].table)
        picked = [self._pick(lookup, ids) for lookup in lookups]
        lengths = torch.cat([torch.ones_like(p[0]) if p[1] is None else p[1] for p in picked])
        offsets = lengths.cumsum(0) - lengths
        values = torch.cat([p[0] for p in picked])
        weights = torch.cat([_or_ones(p[2], p[0]) for p in picked]) if any(p[2] is not None for p in picked) else None
        bags: Tensor = group(values, offsets, weights)
        return bags.view(len(lookups), size, bags.shape[1]).transpose(0, 1).flatten(1)

    def _pick(self, lookup: Lookup, ids: JaggedIds) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Storage rows, bag lengths (None: one each) and weights of one look-up."""
        values, lengths, weights = ids.feature(self.position[lookup.feature])
        rows = self._storage_rows(values, lookup.table)
        if lookup.pooling == "mean" and lengths is not None:
            share = torch.repeat_interleave(1.0 / lengths.clamp(min=1), lengths)
            weights = share if weights is None else weights * share
        return rows, lengths, weights

    def _storage_rows(self, values: Tensor, table: str) -> Tensor:
        values = values.long()
        known = (values >= 0) & (values < self.tables[table].rows)
        return torch.where(known, values, 0) + self.group(table).start[table]

    def _sequence(self, lookup: Lookup, ids: JaggedIds) -> tuple[Tensor, Tensor]:
        """(rows [B, L, dim], lengths [B]); L is the longest of the batch, at least 1; padding is zeros."""
        values, lengths, _ = ids.feature(self.position[lookup.feature])
        rows = self.group(lookup.table).rows(self._storage_rows(values, lookup.table))
        if lengths is None:
            return rows.unsqueeze(1), torch.ones_like(values)
        steps = torch.arange(max(int(lengths.max()) if lengths.numel() else 0, 1), device=values.device)
        present = steps < lengths.unsqueeze(1)
        padded = rows.new_zeros(*present.shape, rows.shape[1])
        padded[present] = rows  # padding reads no row, so that no gradient touches row 0
        return padded, lengths

    def table(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Rows [rows, dim] of a table and its collision weights [rows, 1] or None; both are views."""
        group, spec = self.group(name), self.tables[name]
        part = slice(group.start[name], group.start[name] + spec.rows)
        return group.storage[part], None if group.collision is None else group.collision[part]

    def storages(self) -> list[nn.Parameter]:
        """The rows of all tables, one parameter a dim; collision weights are apart."""
        return [cast(_Group, group).storage for group in self.groups.values()]

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply collision weights into their rows and drop them: the same numbers at no cost."""
        for group in self.groups.values():
            assert isinstance(group, _Group)
            if group.collision is not None:
                group.storage.mul_(group.collision)
                group.collision = None

    def named_tables(self) -> Iterator[tuple[str, Tensor]]:
        """Name and view of every table and of every table's collision weights, as a checkpoint stores them."""
        for name in self.tables:
            rows, collision = self.table(name)
            yield f"{name}.weight", rows
            if collision is not None:
                yield f"{name}.collision", collision

    # A state dict holds one array a table, not the fused storages: it outlives the way they are laid out here.
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, view in self.named_tables():
            destination[prefix + name] = view if keep_vars else view.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = dict(self.named_tables())
        for name, view in own.items():
            value = state_dict.pop(prefix + name, None)
            if value is None:
                missing_keys.append(prefix + name)
            elif value.shape != view.shape:
                error_msgs.append(f"{prefix + name}: expected shape {tuple(view.shape)}, got {tuple(value.shape)}")
            else:
                with torch.no_grad():
                    view.copy_(value)
        unexpected_keys.extend(key for key in state_dict if key.startswith(prefix))


def _or_ones(weights: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones(like.shape, device=like.device) if weights is None else weights
