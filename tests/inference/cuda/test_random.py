"""Whatever a batch is and wherever a plan puts the rows: a session on a GPU gives what one on the processor gives."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.batch import Batch, JaggedIds
from recsys.dataflow.gpu_plan import Where
from recsys.dataflow.workload import Dtype
from recsys.inference.parts import from_checkpoint
from recsys.inference.session import InferenceSession
from recsys.layers.tables import TableSpec
from recsys.models.checkpoint import load
from tests.inference.cuda.test_plans import PLACES, planned

WAYS: tuple[tuple[Dtype, tuple[Where, ...]], ...] = (
    ("fp32", ("split",)),
    ("fp16", PLACES),
    ("int8", ("host", "split", "cpu")),
)


@functools.cache
def opened(folder: Path, device: torch.device, way: int) -> tuple[InferenceSession, InferenceSession]:
    checkpoint = load(folder)
    dtype, places = WAYS[way]
    plan = planned(checkpoint.model.tables.spec, device, *places, dtype=dtype)
    parts = from_checkpoint(checkpoint, plan)
    gpu = InferenceSession(parts, plan, backend="eager", max_batch=8, device="cuda")
    return gpu, InferenceSession(parts, backend="eager")


def batch_of(spec: TableSpec, n: int, seed: int, most: int | None, wild: bool, weighted: bool) -> Batch:
    """Bags of up to `most` ids, or of one; wild ids may be any number."""
    rng = np.random.default_rng(seed)
    rows = {lookup.feature: spec.table[lookup.table].rows for lookup in spec.lookups}
    lengths = np.ones((len(spec.features), n), dtype=int)
    if most is not None:
        lengths = rng.integers(0, most + 1, lengths.shape)
    values = [rng.integers(0, rows[f], count) for f, count in zip(spec.features, lengths.sum(axis=1), strict=True)]
    ids = torch.from_numpy(np.concatenate(values))
    ids = ids if seed % 2 else ids.int()
    if wild and len(ids):
        far = torch.iinfo(ids.dtype)
        ids[torch.from_numpy(rng.integers(0, len(ids), 3))] = torch.tensor([far.min, far.max, -1], dtype=ids.dtype)
    offsets = None
    if most is not None:
        gap = int(rng.integers(0, 3))  # ids that are nobody's
        ids = torch.cat([ids.new_full((gap,), -7), ids, ids.new_full((gap,), -7)])
        offsets = torch.from_numpy(gap + np.concatenate([[0], lengths.reshape(-1).cumsum()]))
        offsets = offsets if seed % 3 else offsets.int()
    weights = torch.from_numpy(rng.random(len(ids), dtype=np.float32)) if weighted else None
    dense = torch.from_numpy(rng.standard_normal((n, spec.dense), dtype=np.float32))
    return Batch(dense, JaggedIds(spec.features, ids, offsets, weights))


@pytest.mark.parametrize("way", range(len(WAYS)))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 20),
    seed=st.integers(0, 10_000),
    most=st.sampled_from([None, 0, 1, 3, 20]),
    wild=st.booleans(),
    weighted=st.booleans(),
)
def test_scores_and_unknown_ids_are_the_processors(
    folder: Path, device: torch.device, way: int, n: int, seed: int, most: int | None, wild: bool, weighted: bool
) -> None:
    gpu, cpu = opened(folder, device, way)
    batch = batch_of(cpu.spec, n, seed, most, wild, weighted)
    before = gpu.unknown_ids, cpu.unknown_ids
    np.testing.assert_allclose(gpu.predict(batch), cpu.predict(batch), rtol=2e-5, atol=5e-6)
    assert gpu.unknown_ids - before[0] == cpu.unknown_ids - before[1]
