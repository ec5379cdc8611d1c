"""The embedding modules of a model: what each stores, how it is asked, and what it gives.

A site takes the place of its module's `forward`, on the instance: the module itself, its weights, its hooks and its
name stay as they are. Whatever it is asked that look-ups cannot do, it leaves to the module's own forward, so that
errors are the module's own too.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.executor import Kernels, kernels
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.storage import Rows, Source
from recsys.errors import ConfigError, DataError

__all__ = ["Ask", "BagSite", "EmbeddingSite", "Form", "Pooling", "Site", "Switch", "Want"]

Form = Literal["ones", "rows", "bags", "keyed"]
"""Ids of any shape, each a bag; [B, L], each row a bag; [nnz] with offsets; a KeyedJaggedTensor."""
Pooling = Literal["sum", "mean"]
Part = tuple[Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Ask:
    """What a module was called with.

    Attributes:
        form: How the ids come.
        tensors: ids; offsets for `bags` and `keyed`; weights if `weighted`.
        bags: Shape of what is given, without its columns.
        weighted: Whether each id has a weight.
        keys: Features of a KeyedJaggedTensor.
    """

    form: Form
    tensors: tuple[Tensor, ...]
    bags: tuple[int, ...]
    weighted: bool = False
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Want:
    """A look-up of a site: feature of a KeyedJaggedTensor, else empty; index of its table; how a bag is pooled."""

    feature: str
    table: int
    pooling: Pooling = "sum"


class Tape(Protocol):
    """Answers in place of the look-ups, and notes what was asked."""

    def play(self, site: Site, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the module shall give."""


class Switch(threading.local):
    """Whether sites look up, or a tape plays: that of the thread that is at it."""

    tape: Tape | None = None


@dataclass(eq=False, repr=False)
class Site:
    """One embedding module.

    Attributes:
        name: Its path in the model.
        module: Stays as it is.
        sources: Its tables, to be stored.
        wants: Its look-ups, in the order of their columns.
    """

    name: str
    module: Any
    sources: tuple[Source, ...]
    wants: tuple[Want, ...]
    switch: Switch
    rows: tuple[Rows, ...] = ()
    """As they are stored; empty before they are."""
    _kernels: dict[tuple[str, ...], Kernels] = field(default_factory=dict)

    @property
    def dims(self) -> list[int]:
        """Columns of each look-up."""
        return [self.sources[want.table].dim for want in self.wants]

    def ask(self, *args: Any, **kwargs: Any) -> Ask | None:
        """What a call asks for; None where only the module itself can answer."""
        raise NotImplementedError

    def bags(self, form: Form, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        """Shape of what is given for ids that come so, without its columns."""
        raise NotImplementedError

    def part(self, ask: Ask) -> Part | None:
        """Values, lengths (None: one each) and weights; None where the ids do not fit their offsets."""
        raise NotImplementedError

    def give(self, ask: Ask, x: Tensor) -> Any:
        """What the module gives, of x [*bags, columns]."""
        return x

    def slots(self, features: Sequence[str], column: int, name: str = "") -> list[Slot]:
        """Its look-ups of ids of these features, in columns from `column` on."""
        columns = accumulate(self.dims, initial=column)
        return [
            Slot(f"{name or self.name}.{k}", features.index(want.feature), self.rows[want.table], at, want.pooling)
            for k, (want, at) in enumerate(zip(self.wants, columns, strict=False))
        ]

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward."""
        return type(self.module).forward(self.module, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model calls."""
        if self.switch.tape is not None:
            return self.switch.tape.play(self, args, kwargs)
        ask = self.ask(*args, **kwargs) if self.rows and not self._learns() else None
        found = None if ask is None else self._serve(ask)
        return self.original(*args, **kwargs) if found is None else found

    def _learns(self) -> bool:
        """Whether a gradient is wanted, or weights are no more what was stored: the module itself answers."""
        return self.module.training or (
            torch.is_grad_enabled() and any(w.requires_grad for w in self.module.parameters())
        )

    def _serve(self, ask: Ask) -> Any:
        """What is given; None where an id is out of range, or does not belong to a bag."""
        if ask.keys not in self._kernels:
            self._kernels[ask.keys] = kernels(self.slots(ask.keys or ("",), 0))
        x = torch.empty(*ask.bags, sum(self.dims), dtype=torch.float32)
        try:
            ids = self.jagged(ask)
            unknown = ids is None or self._kernels[ask.keys].look_up(ids, x.view(-1, x.shape[-1]))
        except DataError:  # the module says what is wrong
            return None
        return None if unknown else self.give(ask, x)

    def jagged(self, ask: Ask) -> JaggedIds | None:
        """The ids as kernels take them; None where they do not fit their offsets."""
        part = self.part(ask)
        return None if part is None else JaggedIds.stack(("",), [part])

    def __deepcopy__(self, memo: dict[int, Any]) -> Site:
        """A copy of the model looks up by itself: its weights are its own, and nobody would put it back."""
        return replace(self, module=copy.deepcopy(self.module, memo), switch=Switch(), rows=(), _kernels={})

    def __reduce__(self) -> Any:
        """It holds what no file can.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "an optimised model cannot be saved: put it back with revert() first, or save its state_dict()"
        )


class EmbeddingSite(Site):
    """`nn.Embedding`: a row for each id."""

    def ask(self, input: Tensor) -> Ask | None:
        """Ids of any shape."""
        return Ask("ones", (input,), self.bags("ones", (input,))) if _whole(input) else None

    def bags(self, form: Form, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        """As the ids."""
        return tuple(tensors[0].shape)

    def part(self, ask: Ask) -> Part | None:
        """Each id is a bag."""
        return ask.tensors[0].reshape(-1), None, None


class BagSite(Site):
    """`nn.EmbeddingBag`: sums or means of rows [B, L], or of ids with offsets."""

    def ask(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Ask | None:
        """Bags with or without offsets and weights."""
        weights = () if per_sample_weights is None else (per_sample_weights,)
        shaped = all(one.shape == input.shape and self.module.mode == "sum" for one in weights)
        if not shaped or not _whole(input):
            return None
        if input.dim() == 2 and offsets is None:
            single = input.shape[1] == 1 and not weights and self.module.padding_idx is None
            return self._asked("ones" if single else "rows", (input, *weights), bool(weights))
        if input.dim() == 1 and offsets is not None and offsets.dim() == 1 and _whole(offsets):
            return self._asked("bags", (input, offsets, *weights), bool(weights))
        return None

    def _asked(self, form: Form, tensors: tuple[Tensor, ...], weighted: bool) -> Ask | None:
        bags = self.bags(form, tensors)
        return Ask(form, tensors, bags, weighted) if bags[0] >= 0 else None

    def bags(self, form: Form, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        """One dimension, which is that of the offsets where there are some."""
        if form == "bags":
            return (tensors[1].shape[0] - int(bool(self.module.include_last_offset)),)
        return (tensors[0].shape[0],)

    def part(self, ask: Ask) -> Part | None:
        """Ids that are padding belong to no bag."""
        ids, weights = ask.tensors[0], ask.tensors[-1] if ask.weighted else None
        values = ids.reshape(-1)
        if ask.form == "ones":
            return values, None, None
        lengths = torch.full(ask.bags, ids.shape[1]) if ask.form == "rows" else self._lengths(*ask.tensors[:2])
        if lengths is None:
            return None
        weights = None if weights is None else weights.reshape(-1)
        return self._without_padding(values, lengths, weights)

    def _lengths(self, ids: Tensor, offsets: Tensor) -> Tensor | None:
        n, bounds = ids.shape[0], offsets.long()
        if not self.module.include_last_offset:
            bounds = torch.cat([bounds, torch.tensor([n])])
        lengths = bounds.diff()
        fits = int(bounds[0]) == 0 and int(bounds[-1]) == n and not bool((lengths < 0).any())
        return lengths if fits else None

    def _without_padding(self, values: Tensor, lengths: Tensor, weights: Tensor | None) -> Part:
        padding = self.module.padding_idx
        if padding is None:
            return values, lengths, weights
        kept = values != padding
        bag = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        lengths = torch.bincount(bag[kept], minlength=len(lengths))
        return values[kept], lengths, None if weights is None else weights[kept]


def _whole(ids: Tensor) -> bool:
    return ids.dtype in (torch.int64, torch.int32) and ids.is_cpu
