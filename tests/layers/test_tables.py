from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.data.batch import Batch, JaggedIds
from recsys.layers.tables import EmbeddingTables, Lookup, Table
from tests.helpers import jagged, jagged_ids, randomise, single, unpack, unpack_weights

Looked = tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]
TABLES = (Table("wide", 4, 3), Table("narrow", 5, 1), Table("other", 3, 3))
LOOKUPS = (
    Lookup("a", "a", "wide"),
    Lookup("a:first", "a", "narrow"),
    Lookup("b", "b", "other", "mean"),
    Lookup("b:rows", "b", "wide", "none"),
)
IDS = jagged(("a", "b"), [[[1], [3]], [[2, 2, 1], []]])
BATCH = Batch(torch.tensor([[0.5, -1.0], [2.0, 3.0]]), IDS)


def build(collision_weights: bool = False, noise: bool = True, seed: int = 0) -> EmbeddingTables:
    tables = EmbeddingTables(("a", "b"), TABLES, LOOKUPS, dense=2, collision_weights=collision_weights)
    if noise:
        randomise(tables, seed)
    return tables


def reference(tables: EmbeddingTables, batch: Batch) -> Looked:
    """What the look-ups mean: one row at a time."""
    bags, scales = unpack(batch.ids), unpack_weights(batch.ids)
    columns = {"": list(batch.dense)}
    sequences: dict[str, tuple[Tensor, Tensor]] = {}
    for lookup in tables.lookups:
        f = tables.position[lookup.feature]
        looked = [_rows(tables, lookup.table, bag) for bag in bags[f]]
        if lookup.pooling == "none":
            sequences[lookup.name] = _padded(looked, tables.tables[lookup.table].dim)
            continue
        share = [len(bag) if lookup.pooling == "mean" and bag else 1 for bag in bags[f]]
        columns[lookup.name] = [
            sum((w / n * row for w, row in zip(scale, rows, strict=True)), torch.zeros(rows.shape[1]))
            for n, scale, rows in zip(share, scales[f], looked, strict=True)
        ]
    order = ["", *tables.layout.slices]
    x = [torch.cat([columns[name][b] for name in order]) for b in range(len(batch))]
    return torch.stack(x) if x else torch.zeros(0, tables.layout.width), sequences


def _rows(tables: EmbeddingTables, table: str, bag: list[int]) -> Tensor:
    weight, collision = tables.table(table)
    known = [i if 0 <= i < len(weight) else 0 for i in bag]
    return weight[known] if collision is None else weight[known] * collision[known]


def _padded(looked: list[Tensor], dim: int) -> tuple[Tensor, Tensor]:
    longest = max([1, *map(len, looked)])
    rows = [torch.cat([row, torch.zeros(longest - len(row), dim)]) for row in looked]
    return torch.stack(rows) if rows else torch.zeros(0, 1, dim), torch.tensor([len(row) for row in looked])


def loss(looked: Looked) -> Tensor:
    """A number that every looked-up column moves, each in its own way."""
    total = torch.zeros(())
    for part in (looked[0], *(rows for rows, _ in looked[1].values())):
        total = total + (part * torch.linspace(0.5, 2.0, part.numel()).view(part.shape)).square().sum()
    return total


@dataclass
class Case:
    tables: EmbeddingTables
    batch: Batch


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Random tables of several dims, shared and not, and a batch with ids in and out of range."""
    dims = draw(st.lists(st.integers(1, 33), min_size=1, max_size=3))
    tables = [
        Table(f"t{i}", draw(st.integers(1, 7)), draw(st.sampled_from(dims))) for i in range(draw(st.integers(1, 4)))
    ]
    ids = draw(jagged_ids(low=-1, high=7))
    lookups = [
        Lookup(
            f"l{i}",
            draw(st.sampled_from(ids.features)),
            draw(st.sampled_from(tables)).name,
            draw(st.sampled_from(("sum", "mean", "none"))),
        )
        for i in range(draw(st.integers(1, 5)))
    ]
    dense = draw(st.integers(0, 3))
    module = EmbeddingTables(ids.features, tables, lookups, dense, collision_weights=draw(st.booleans()))
    randomise(module, draw(st.integers(0, 9)))
    return Case(module, Batch(torch.rand(ids.size, dense), ids))


@settings(deadline=None, max_examples=150)
@given(cases())
def test_forward_is_the_loop_over_bags(case: Case) -> None:
    x, sequences = case.tables(case.batch)
    expected, rows = reference(case.tables, case.batch)
    torch.testing.assert_close(x, expected)
    assert sequences.keys() == rows.keys()
    for name, (padded, lengths) in sequences.items():
        torch.testing.assert_close(padded, rows[name][0])
        assert lengths.tolist() == rows[name][1].tolist()


def _gradients(total: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Dense gradients; zeros where nothing was read."""
    if not total.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return [gradient.to_dense() for gradient in found]


@settings(deadline=None, max_examples=75)
@given(cases())
def test_gradients_are_the_loop_s(case: Case) -> None:
    parameters: list[Tensor] = list(case.tables.parameters())
    got = _gradients(loss(case.tables(case.batch)), parameters)
    want = _gradients(loss(reference(case.tables, case.batch)), parameters)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=75)
@given(cases())
def test_folding_changes_no_number(case: Case) -> None:
    x, sequences = case.tables(case.batch)
    case.tables.fold()
    folded, rows = case.tables(case.batch)
    torch.testing.assert_close(folded, x, rtol=1e-6, atol=1e-6)
    for name in rows:
        torch.testing.assert_close(rows[name][0], sequences[name][0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("row", [-1, 4, 5, 2**40, -(2**40)])
def test_ids_out_of_range_read_row_0(row: int) -> None:
    tables = EmbeddingTables(("a",), [Table("t", 4, 3), Table("next", 4, 3)], [Lookup("a", "a", "t")])
    randomise(tables)
    x, _ = tables(Batch(torch.zeros(1, 0), single(("a",), [[row]])))
    assert torch.equal(x[0], tables.table("t")[0][0])


def test_the_last_row_is_known() -> None:
    tables = EmbeddingTables(("a",), [Table("t", 4, 3), Table("next", 4, 3)], [Lookup("a", "a", "t")])
    randomise(tables)
    x, _ = tables(Batch(torch.zeros(1, 0), single(("a",), [[3]])))
    assert torch.equal(x[0], tables.table("t")[0][3])


def test_an_empty_bag_pools_to_zeros_and_a_full_one_by_hand() -> None:
    tables = EmbeddingTables(
        ("a",), [Table("t", 3, 2)], [Lookup("sum", "a", "t"), Lookup("mean", "a", "t", "mean")], dense=0
    )
    with torch.no_grad():
        tables.table("t")[0].copy_(torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 6.0]]))
    plain = jagged(("a",), [[[1, 2], []]])
    x, _ = tables(Batch(torch.zeros(2, 0), plain))
    assert x.tolist() == [[4.0, 8.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]]
    # A mean divides by the number of ids, not by the sum of their weights.
    x, _ = tables(Batch(torch.zeros(2, 0), replace(plain, weights=torch.tensor([2.0, 0.5]))))
    assert x.tolist() == [[3.5, 7.0, 1.75, 3.5], [0.0, 0.0, 0.0, 0.0]]


def test_numbers_come_first_then_look_ups_of_one_dim_side_by_side() -> None:
    layout = build().layout
    assert layout.dense == slice(0, 2)
    assert layout.slices == {"a": slice(2, 5), "b": slice(5, 8), "a:first": slice(8, 9)}
    assert list(layout.slices) == ["a", "b", "a:first"]
    assert layout.sequences == {"b:rows": 3}
    assert layout.width == 9


def test_the_dim_of_the_first_look_up_comes_first_whatever_its_size() -> None:
    lookups = [Lookup("n", "a", "narrow"), Lookup("w", "a", "wide"), Lookup("m", "b", "narrow")]
    layout = EmbeddingTables(("a", "b"), TABLES, lookups, dense=1).layout
    assert layout.slices == {"n": slice(1, 2), "m": slice(2, 3), "w": slice(3, 6)}


def test_stack_is_a_view_of_neighbours() -> None:
    tables = build()
    x, _ = tables(BATCH)
    stacked = tables.layout.stack(x, ["a", "b"])
    assert stacked.shape == (2, 2, 3)
    assert torch.equal(stacked[:, 1], x[:, 5:8])
    assert stacked.data_ptr() == x[:, 2:].data_ptr()


def test_numbers_pass_unchanged() -> None:
    x, _ = build()(BATCH)
    assert torch.equal(x[:, :2], BATCH.dense)


def test_padding_is_zeros_even_where_row_0_is_not() -> None:
    tables = build()
    rows, lengths = tables(BATCH)[1]["b:rows"]
    assert lengths.tolist() == [3, 0]
    assert torch.equal(rows[0], tables.table("wide")[0][[2, 2, 1]])
    assert not rows[1].any()
    assert tables.table("wide")[0][0].all()


def test_out_is_filled_in_place() -> None:
    tables = build()
    buffer = torch.full((2, tables.layout.width), float("nan"))
    with torch.no_grad():
        x, _ = tables(BATCH, out=buffer)
        expected, _ = tables(BATCH)
    assert x.data_ptr() == buffer.data_ptr()
    assert torch.equal(buffer, expected)


def test_row_0_of_every_table_starts_as_zeros_and_the_others_do_not() -> None:
    tables = build(collision_weights=True, noise=False)
    for table in TABLES:
        weight, collision = tables.table(table.name)
        assert not weight[0].any()
        assert weight[1:].all()
        assert collision is not None
        assert bool((collision == 1).all())


def test_std_is_the_scale_of_the_rows() -> None:
    tables = EmbeddingTables(("a",), [Table("t", 500, 20)], [Lookup("a", "a", "t")], std=0.2)
    assert tables.table("t")[0].std().item() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("collision_weights", [False, True])
def test_gradients_are_sparse_and_touch_only_the_rows_read(collision_weights: bool) -> None:
    tables = build(collision_weights)
    loss(tables(BATCH)).backward()  # type: ignore[no-untyped-call]
    # The group of dim 3 holds `wide` from row 0 and `other` from row 4: a reads 1 and 3; b reads 2 and 1 of both.
    for table, rows in (("wide", [1, 2, 3, 5, 6]), ("narrow", [1, 3])):
        group = tables.group(table)
        for parameter in group.parameters():
            assert parameter.grad is not None
            assert parameter.grad.is_sparse
            assert parameter.grad.coalesce().indices()[0].tolist() == rows
            assert parameter.grad.coalesce().values().any(dim=1).all()
    assert len(list(tables.parameters())) == (4 if collision_weights else 2)


def test_folding_drops_the_collision_weights() -> None:
    tables = build(collision_weights=True)
    weight, collision = (part.detach().clone() for part in tables.table("wide") if part is not None)
    tables.fold()
    folded, none = tables.table("wide")
    torch.testing.assert_close(folded, weight * collision)
    assert none is None
    assert set(tables.state_dict()) == {"wide.weight", "narrow.weight", "other.weight"}
    before = folded.detach().clone()
    tables.fold()
    assert torch.equal(tables.table("wide")[0], before)


@pytest.mark.parametrize("collision_weights", [False, True])
def test_state_has_one_entry_a_table_and_round_trips(collision_weights: bool) -> None:
    tables, other = build(collision_weights), build(collision_weights, seed=1)
    state = tables.state_dict()
    shapes = {f"{t.name}.weight": (t.rows, t.dim) for t in TABLES}
    shapes |= {f"{t.name}.collision": (t.rows, 1) for t in TABLES if collision_weights}
    assert {name: tuple(value.shape) for name, value in state.items()} == shapes
    assert not torch.equal(tables(BATCH)[0], other(BATCH)[0])
    other.load_state_dict(state)
    assert torch.equal(tables(BATCH)[0], other(BATCH)[0])


def test_loading_keeps_the_parameters_of_the_optimiser() -> None:
    tables = build()
    before = [parameter.data_ptr() for parameter in tables.parameters()]
    tables.load_state_dict(build(seed=1).state_dict())
    assert [parameter.data_ptr() for parameter in tables.parameters()] == before
    assert all(parameter.requires_grad for parameter in tables.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wide.weight": None}, r"Missing key.*wide\.weight"),
        ({"extra.weight": torch.zeros(1)}, r"Unexpected key.*extra\.weight"),
        ({"wide.collision": torch.ones(4, 1)}, r"Unexpected key.*wide\.collision"),
        ({"wide.weight": torch.zeros(5, 3)}, r"wide\.weight: expected shape \(4, 3\), got \(5, 3\)"),
    ],
)
def test_state_that_does_not_fit_is_refused(change: dict[str, Tensor | None], message: str) -> None:
    tables = build()
    state = {name: value for name, value in (tables.state_dict() | change).items() if value is not None}
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        tables.load_state_dict(state)


def test_no_look_ups_leave_the_numbers() -> None:
    tables = EmbeddingTables((), [], [], dense=2)
    batch = Batch(torch.rand(3, 2), JaggedIds((), torch.zeros(0, dtype=torch.int64)))
    assert torch.equal(tables(batch)[0], batch.dense)
