"""Keys and values of prompts, once a request, and of what its beams generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

__all__ = ["Cache", "Packed", "lineage"]


@dataclass(frozen=True, eq=False)
class Packed:
    """Sequences of rows one behind the other."""

    offsets: tuple[int, ...]
    """B + 1 places; sequence b has the rows offsets[b] … offsets[b + 1] - 1."""
    lengths: Tensor
    """[B] int64 on the rows' device."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Packed:
        """Sequences of these lengths."""
        return cls(tuple(accumulate(lengths, initial=0)), torch.tensor(lengths, dtype=torch.int64, device=device))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each sequence starts and ends."""
        return list(pairwise(self.offsets))

    @property
    def longest(self) -> int:
        """Rows of the longest sequence."""
        return max(stop - start for start, stop in self.spans)

    def positions(self) -> Tensor:
        """[T] int64: 0, 1, … in each sequence."""
        return torch.cat([torch.arange(stop - start, device=self.lengths.device) for start, stop in self.spans])

    def last(self) -> Tensor:
        """[B] int64 the row that ends each sequence."""
        return torch.tensor(self.offsets[1:], device=self.lengths.device) - 1


class Cache:
    """Each layer's keys and values: [B, kv_heads, slots + longest, head_dim], the prompt behind the slots.

    A request's prompt is stored once and seen by all its beams (xGR: arXiv 2512.11529). Generated tokens get a slot
    each, step after step. Which slots a beam sees is a mask from its lineage, so that nothing is moved when beams die
    or fork. Layers may keep prompts of different lengths.

    Args:
        layers: How many.
        widths: Beams of each step that is fed back; their sum is the number of slots.
    """

    def __init__(self, layers: int, widths: Sequence[int]) -> None:
        self.widths = tuple(widths)
        self._starts = list(accumulate(widths[:-1], initial=0))
        self.slots = sum(widths)
        self.keys: list[Tensor] = [torch.empty(0)] * layers
        self.values: list[Tensor] = [torch.empty(0)] * layers
        self.kept: list[Packed | None] = [None] * layers

    def store(self, layer: int, k: Tensor, v: Tensor, rows: Packed) -> None:
        """Keep what a prompt's rows [T, kv_heads, head_dim] give a layer.

        Args:
            layer: Counted from 0.
            k: Rotated keys.
            v: Values.
            rows: Which of them belong to which request. Layers given the same object share their masks.
        """
        shape = (len(rows.lengths), k.shape[1], self.slots + rows.longest, k.shape[2])
        self.kept[layer] = rows
        # Tried: memory kept from batch to batch. Batches of 8 took 7 % longer: glibc then gave the pages of activations
        # back to the system and asked for them again, layer after layer.
        self.keys[layer], self.values[layer] = k.new_empty(shape), v.new_empty(shape)
        for kept, new in ((self.keys[layer], k), (self.values[layer], v)):
            kept[:, :, : self.slots] = 0  # what a mask hides must be a number all the same
            for b, (start, stop) in enumerate(rows.spans):
                end = self.slots + stop - start
                kept[b, :, self.slots : end] = new[start:stop].transpose(0, 1)
                kept[b, :, end:] = 0

    def prompt(self, layer: int, request: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one request's prompt, [kv_heads, length, head_dim] each."""
        rows = self.kept[layer]
        assert rows is not None
        end = self.slots + rows.offsets[request + 1] - rows.offsets[request]
        return self.keys[layer][request, :, self.slots : end], self.values[layer][request, :, self.slots : end]

    def append(self, layer: int, step: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the rows [B · W, kv_heads, head_dim] of a step's beams.

        Args:
            layer: Counted from 0.
            step: Counted from 0.
            k: Rotated keys.
            v: Values.

        Returns:
            The layer's keys and values, whole: they are contiguous, as oneDNN's products want them.
        """
        start = self._starts[step]
        stop = start + self.widths[step]
        keys, values = self.keys[layer], self.values[layer]
        for kept, new in ((keys, k), (values, v)):
            kept[:, :, start:stop] = new.view(len(kept), -1, *new.shape[1:]).transpose(1, 2)
        return keys, values

    def mask(self, layer: int, ancestors: Sequence[Tensor]) -> Tensor:
        """What beams see of a layer's keys, [B, W, slots + longest] bool.

        Args:
            layer: Counted from 0.
            ancestors: Of each step so far; see `lineage`.
        """
        rows = self.kept[layer]
        assert rows is not None
        beams = ancestors[-1].shape[1]
        places = torch.arange(self.slots + rows.longest, device=rows.lengths.device) - self.slots
        seen = (places >= 0) & (places < rows.lengths.unsqueeze(1))
        own = torch.stack(list(ancestors), dim=2) + places.new_tensor(self._starts[: len(ancestors)])
        return seen.unsqueeze(1).repeat(1, beams, 1).scatter_(2, own, True)


def lineage(ancestors: Sequence[Tensor], parents: Tensor) -> list[Tensor]:
    """Whose tokens each beam follows, after one more step.

    Args:
        ancestors: For each step so far, [B, W'] the beam of that step that each of the W' beams comes from.
        parents: [B, W] for each new beam the one that it was.

    Returns:
        The same for the W new beams, and their own step, in which each comes from itself.
    """
    own = torch.arange(parents.shape[1], device=parents.device).expand_as(parents)
    return [*(beams.gather(1, parents) for beams in ancestors), own]
