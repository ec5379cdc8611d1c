"""Where the time of a session goes: look-ups, network, and all between them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from recsys.data.batch import Batch, JaggedIds
from recsys.inference.backends import Backend
from recsys.inference.choice import SIZES

if TYPE_CHECKING:
    from recsys.inference.session import InferenceSession

__all__ = ["SizeProfile", "drawn", "profile"]

_LEAST = 20


@dataclass(frozen=True)
class SizeProfile:
    """Microseconds of a batch size: medians, but for `p99_us`; `glue_us` is what neither look-ups nor network take."""

    batch: int
    backend: Backend
    us: float
    p99_us: float
    lookup_us: float
    network_us: float
    glue_us: float

    @property
    def rows_per_second(self) -> float:
        """Of one thread."""
        return self.batch / self.us * 1e6


def profile(
    session: InferenceSession, batches: Mapping[int, Sequence[Batch]] | None = None, seconds: float = 0.3
) -> list[SizeProfile]:
    """Time a session.

    Args:
        session: It must be open.
        batches: For each size batches to score in turn; by default uniform ids in the sizes that were measured to
            choose back ends, up to the session's largest.
        seconds: For each size.
    """
    if batches is None:
        sizes = sorted({min(size, session.max_batch) for size in SIZES})
        batches = {size: [drawn(session, size, seed) for seed in range(8)] for size in sizes}
    return [_one(session, size, rotation, seconds) for size, rotation in batches.items()]


def drawn(session: InferenceSession, size: int, seed: int = 0) -> Batch:
    """A batch of uniform ids, one a bag, and normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    rows = {n.feature: session.spec.table[n.table].rows for n in session.spec.lookups}
    columns = [torch.randint(rows.get(name, 1), (size,), generator=generator) for name in session.spec.features]
    ids = torch.cat(columns) if columns else torch.zeros(0, dtype=torch.int64)
    dense = torch.randn(size, session.spec.dense, generator=generator)
    return Batch(dense, JaggedIds(session.spec.features, ids))


def _one(session: InferenceSession, size: int, rotation: Sequence[Batch], seconds: float) -> SizeProfile:
    """Whole calls and calls in steps take turns."""
    for batch in rotation:
        session.predict(batch)
    whole: list[float] = []
    steps: list[tuple[float, float]] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(whole) < _LEAST:
        for batch in rotation:
            start = time.perf_counter()
            session.predict(batch)
            whole.append(1e6 * (time.perf_counter() - start))
            steps.append(session.step_times(batch))
    us = statistics.median(whole)
    lookup, network = (statistics.median(step[k] for step in steps) for k in range(2))
    p99 = float(np.quantile(whole, 0.99))
    backend = session.choice.backend(min(size, session.max_batch))
    return SizeProfile(size, backend, us, p99, lookup, network, us - lookup - network)
