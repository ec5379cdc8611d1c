from __future__ import annotations

import sys
import warnings
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.batch import Batch, JaggedIds
from recsys.errors import DataError, MissingExtraError
from tests.helpers import jagged, jagged_ids, single, unpack, unpack_weights

IDS = jagged(("a", "b"), [[[1, 2], [], [3]], [[4], [5, 6], []]])
ONE = single(("a", "b"), [[1, 2, 3], [4, 5, 6]])
EMPTY = JaggedIds((), torch.zeros(0, dtype=torch.int64))
NUMBERS = Batch(torch.tensor([[1.0], [2.0], [3.0]]), EMPTY)


def batch(ids: JaggedIds = IDS) -> Batch:
    return Batch(
        dense=torch.tensor([[0.0], [1.0], [2.0]]),
        ids=ids,
        labels=torch.tensor([[0.0], [1.0], [0.0]]),
        groups=torch.tensor([7, 8, 9]),
        keys=pa.table({"key": ["x", "y", "z"]}),
    )


@given(jagged_ids())
def test_lengths_count_every_bag(ids: JaggedIds) -> None:
    assert ids.lengths().tolist() == [[len(bag) for bag in feature] for feature in unpack(ids)]
    assert ids.lengths().dtype == torch.int64


@given(jagged_ids())
def test_full_offsets_bound_every_bag(ids: JaggedIds) -> None:
    assert unpack(replace(ids, offsets=ids.full_offsets())) == unpack(ids)


@given(jagged_ids())
def test_feature_is_one_row_of_bags(ids: JaggedIds) -> None:
    for f, bags in enumerate(unpack(ids)):
        values, lengths, weights = ids.feature(f)
        assert values.tolist() == [row for bag in bags for row in bag]
        assert ([1] * len(bags) if lengths is None else lengths.tolist()) == [len(bag) for bag in bags]
        assert (weights is None) == (ids.weights is None)
        if weights is not None:
            assert weights.tolist() == [w for bag in unpack_weights(ids)[f] for w in bag]


@given(jagged_ids(), st.data())
def test_take_picks_bags_in_the_order_asked_for(ids: JaggedIds, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, ids.size - 1), max_size=6) if ids.size else st.just([]))
    taken = ids.take(torch.tensor(rows, dtype=torch.int64))
    assert unpack(taken) == [[feature[b] for b in rows] for feature in unpack(ids)]
    assert unpack_weights(taken) == [[feature[b] for b in rows] for feature in unpack_weights(ids)]
    assert taken.size == len(rows)
    assert taken.values.dtype == ids.values.dtype
    assert (taken.offsets is None) == (ids.offsets is None)


def test_take_keeps_the_width_of_the_offsets() -> None:
    narrow = replace(IDS, offsets=IDS.full_offsets().int())
    taken = narrow.take(torch.tensor([2, 0]))
    assert unpack(taken) == [[[3], [1, 2]], [[], [4]]]
    assert taken.full_offsets().dtype == torch.int32


@given(st.lists(jagged_ids(features=2), min_size=1, max_size=4))
def test_concat_puts_examples_one_after_the_other(parts: list[JaggedIds]) -> None:
    joined = JaggedIds.concat(parts)
    assert unpack(joined) == [[bag for part in parts for bag in unpack(part)[f]] for f in range(2)]
    assert unpack_weights(joined) == [[bag for part in parts for bag in unpack_weights(part)[f]] for f in range(2)]
    assert (joined.offsets is None) == all(part.offsets is None for part in parts)
    assert (joined.weights is None) == all(part.weights is None for part in parts)


def test_concat_refuses_other_features() -> None:
    with pytest.raises(DataError, match="different features"):
        JaggedIds.concat([IDS, single(("a", "c"), [[1], [2]])])


@given(jagged_ids())
def test_stack_undoes_feature(ids: JaggedIds) -> None:
    stacked = JaggedIds.stack(ids.features, [ids.feature(f) for f in range(len(ids.features))])
    assert unpack(stacked) == unpack(ids)
    assert unpack_weights(stacked) == unpack_weights(ids)
    assert (stacked.offsets is None) == (ids.offsets is None)


def test_stack_mixes_single_ids_with_bags() -> None:
    parts = [(torch.tensor([1, 2]), None, None), (torch.tensor([3, 4, 5]), torch.tensor([0, 3]), torch.rand(3))]
    stacked = JaggedIds.stack(("a", "b"), parts)
    assert unpack(stacked) == [[[1], [2]], [[], [3, 4, 5]]]
    assert unpack_weights(stacked)[0] == [[1.0], [1.0]]


def test_no_features_have_no_ids() -> None:
    ids = JaggedIds.stack((), [])
    assert (ids.size, ids.lengths().shape, ids.values.numel()) == (0, (0, 0), 0)
    assert JaggedIds.concat([ids, ids]).features == ()


@settings(deadline=None)  # the first example pays for the import
@given(jagged_ids())
def test_kjt_holds_the_same_lists(ids: JaggedIds) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchrec", reason="to_kjt needs torchrec")
    kjt = ids.to_kjt()
    for f, name in enumerate(ids.features):
        assert [bag.tolist() for bag in kjt[name].to_dense()] == unpack(ids)[f]
    back = JaggedIds.from_kjt(kjt)
    assert (back.features, unpack(back), unpack_weights(back)) == (ids.features, unpack(ids), unpack_weights(ids))


def test_kjt_without_torchrec_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrec.sparse.jagged_tensor", None)
    with pytest.raises(MissingExtraError, match=r"python -m recsys\.install"):
        IDS.to_kjt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.bool])
def test_ids_must_be_integers_of_32_or_64_bits(dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match="int32 or int64"):
        JaggedIds(("a",), torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("offsets", [None, torch.tensor([0, 1, 2, 3])])
def test_bags_must_come_out_even(offsets: torch.Tensor | None) -> None:
    with pytest.raises(DataError, match="3 bags cannot be shared out evenly among 2 features"):
        JaggedIds(("a", "b"), torch.tensor([1, 2, 3]), offsets)


def test_ids_of_no_feature_are_refused() -> None:
    with pytest.raises(DataError, match="among 0 features"):
        JaggedIds((), torch.tensor([1]))


@pytest.mark.parametrize("ids", [IDS, ONE])
def test_batch_take_moves_every_column(ids: JaggedIds) -> None:
    taken = batch(ids).take(torch.tensor([2, 0, 2]))
    assert taken.dense.tolist() == [[2.0], [0.0], [2.0]]
    assert unpack(taken.ids) == [[feature[b] for b in (2, 0, 2)] for feature in unpack(ids)]
    assert taken.labels is not None
    assert taken.labels.tolist() == [[0.0], [0.0], [0.0]]
    assert taken.groups is not None
    assert taken.groups.tolist() == [9, 7, 9]
    assert taken.keys is not None
    assert taken.keys["key"].to_pylist() == ["z", "x", "z"]


@pytest.mark.parametrize(
    ("start", "stop", "rows"), [(0, 2, [0, 1]), (1, 99, [1, 2]), (1, 1, []), (3, 5, []), (5, 9, [])]
)
def test_batch_slice_is_a_list_slice(start: int, stop: int, rows: list[int]) -> None:
    part = batch().slice(start, stop)
    assert part.dense[:, 0].tolist() == rows
    assert unpack(part.ids) == [feature[start:stop] for feature in unpack(IDS)]


def test_batch_concat_undoes_slices() -> None:
    whole = batch()
    joined = Batch.concat([whole.slice(0, 1), whole.slice(1, 1), whole.slice(1, 3)])
    assert joined.dense.tolist() == whole.dense.tolist()
    assert unpack(joined.ids) == unpack(whole.ids)
    assert joined.labels is not None
    assert whole.labels is not None
    assert torch.equal(joined.labels, whole.labels)
    assert joined.keys is None


def test_batch_concat_has_labels_only_when_all_parts_have() -> None:
    joined = Batch.concat([batch(), replace(batch(), labels=None)])
    assert joined.labels is None
    assert joined.groups is not None
    assert joined.groups.tolist() == [7, 8, 9, 7, 8, 9]


def test_batch_concat_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        Batch.concat([])


def test_batch_without_id_features() -> None:
    assert NUMBERS.take(torch.tensor([2, 0])).dense.tolist() == [[3.0], [1.0]]
    assert NUMBERS.slice(0, 2).ids.features == ()
    assert len(Batch.concat([NUMBERS, NUMBERS.slice(0, 1)])) == 4


def test_moving_a_batch_keeps_what_it_holds() -> None:
    moved = batch().to("cpu")
    assert unpack(moved.ids) == unpack(IDS)
    assert moved.keys is not None
    assert replace(batch(), labels=None, groups=None).to("cpu").labels is None


@given(jagged_ids(), st.integers(0, 5), st.integers(0, 6))
def test_a_slice_is_what_take_gives_of_the_same_rows(ids: JaggedIds, start: int, stop: int) -> None:
    start = min(start, ids.size)
    stop = max(start, min(stop, ids.size))
    cut, taken = ids.slice(start, stop), ids.take(torch.arange(start, stop))
    assert unpack(cut) == unpack(taken)
    assert unpack_weights(cut) == unpack_weights(taken)
    assert torch.equal(cut.full_offsets(), taken.full_offsets())


def test_a_slice_is_made_of_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index of its own for every id takes the longer the more threads torch has, and on a busy machine for ever."""
    expected = unpack(IDS.take(torch.tensor([1, 2])))
    monkeypatch.setattr(torch, "repeat_interleave", None)
    monkeypatch.setattr(JaggedIds, "take", None)
    assert unpack(IDS.slice(1, 3)) == expected
