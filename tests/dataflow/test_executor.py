"""An executor gives the numbers of training's forward, for every model."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from recsys.data.batch import Batch, JaggedIds
from recsys.dataflow.executor import Kernel, TableExecutor, sources
from recsys.dataflow.kernels import cpu, fbgemm
from recsys.dataflow.storage import Storage
from recsys.errors import DataError
from tests.helpers import batch_of, inputs
from tests.models.test_models import SCHEMAS, UNFIT, VARIANTS, model_of

KERNELS: list[Kernel] = [
    *(["cpu"] if cpu.native else []),  # type: ignore[list-item]
    *(["fbgemm"] if fbgemm.installed() else []),  # type: ignore[list-item]
    "reference",
]
FITTING = [
    (variant, schema)
    for variant in {variant.split()[0]: variant for variant in reversed(VARIANTS)}.values()
    for schema, what in SCHEMAS.items()
    if (variant.split()[0], schema.split(",")[0]) not in UNFIT or (variant == "dlrm" and what.dense)
]


def close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("variant", "schema"), FITTING)
def test_every_model_gives_the_same_numbers(variant: str, schema: str, kernel: Kernel) -> None:
    model = model_of(variant, SCHEMAS[schema]).eval()
    executor = TableExecutor.of(model.tables, kernel=kernel)
    for size in (0, 1, 70):
        batch = batch_of(SCHEMAS[schema], size)
        with torch.no_grad():
            close(executor(batch), model.tables(batch))
            close(model.network(*executor(batch)), model(batch))


def executor_of(unknown: Literal["row 0", "raise"] = "row 0") -> tuple[TableExecutor, Batch]:
    model = model_of("din").eval()
    batch = batch_of(SCHEMAS["all"], 8)
    batch.ids.values[3] = 1 << 20
    batch.ids.values[5] = -1
    executor = TableExecutor.of(model.tables, unknown=unknown)
    with torch.no_grad():
        close(executor(batch), model.tables(batch))
    return executor, batch


def test_ids_out_of_range_read_row_0_and_are_counted() -> None:
    executor, batch = executor_of()
    once = executor.unknown_ids
    assert once >= 2
    executor(batch)
    assert executor.unknown_ids == 2 * once


def test_ids_out_of_range_are_refused_where_they_shall_not_be() -> None:
    with pytest.raises(DataError, match="out of their tables' range"):
        executor_of("raise")


def test_it_fills_the_callers_buffer() -> None:
    executor, batch = executor_of()
    out = torch.full((len(batch), executor.layout.width), 7.0)
    x, _ = executor(batch, out)
    assert x is out
    close(x, executor(batch)[0])


def test_it_copies_the_tables() -> None:
    model = model_of("lr").eval()
    batch = batch_of(SCHEMAS["all"], 5)
    executor = TableExecutor.of(model.tables)
    before, _ = executor(batch)
    for storage in model.tables.storages():
        storage.data.zero_()
    close(executor(batch)[0], before)


@pytest.mark.parametrize("kernel", KERNELS)
def test_executors_of_some_features_each_fill_their_own_columns(kernel: Kernel) -> None:
    """Together they give what one executor of all features gives, unpooled look-ups too."""
    what = inputs()
    model = model_of("din", what).eval()
    spec, rows = model.tables.spec, Storage(sources(model.tables)).tables
    batch = batch_of(what, 9)
    expected, sequences = TableExecutor(spec, rows, kernel=kernel)(batch)
    x = torch.zeros_like(expected)
    x[:, spec.layout.dense] = batch.dense
    found: dict[str, Any] = {}
    for names in (spec.features[:1], spec.features[1:]):
        positions = [spec.features.index(name) for name in names]
        part = JaggedIds.stack(names, [batch.ids.feature(f) for f in positions])
        executor = TableExecutor(spec, rows, kernel=kernel, features=names)
        executor.lookup(part, x)
        found |= executor.sequences(part)
    close(x, expected)
    assert sorted(found) == sorted(sequences)
    close(found, sequences)
