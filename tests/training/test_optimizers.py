"""The row-sparse Adam beside torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recsys.training.optimizers import RowAdam

ROWS = 12
Pair = list[Tensor]


def tables() -> Pair:
    """A table and its collision weights, which are read by the same ids."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(ROWS, dim, generator=generator).requires_grad_() for dim in (4, 1)]


def gradient(ids: list[int], dim: int, seed: int, coalesced: bool) -> Tensor:
    values = torch.randn(len(ids), dim, generator=torch.Generator().manual_seed(seed))
    where = torch.tensor(ids, dtype=torch.int64).view(1, -1)
    grad = torch.sparse_coo_tensor(where, values, (ROWS, dim), check_invariants=False)
    return grad.coalesce() if coalesced else grad


def take(optimizer: torch.optim.Optimizer, pair: Pair, ids: list[int], seed: int, coalesced: bool = False) -> None:
    for k, table in enumerate(pair):
        # as when `table_l2` has added up the rows of one of the two
        table.grad = gradient(ids, table.shape[1], seed + k, coalesced and k == 0)
    with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
        optimizer.step()


steps = st.lists(
    st.tuples(st.lists(st.integers(0, ROWS - 1), max_size=30), st.integers(0, 1000), st.booleans()), max_size=6
)


@given(steps, st.sampled_from([1e-3, 0.1]))
def test_it_is_sparse_adam(steps: list[tuple[list[int], int, bool]], lr: float) -> None:
    ours, theirs = tables(), tables()
    fast, slow = RowAdam(ours, lr=lr), torch.optim.SparseAdam(theirs, lr=lr)
    for ids, seed, coalesced in steps:
        take(fast, ours, ids, seed, coalesced)
        take(slow, theirs, ids, seed, coalesced)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        state, expected = fast.state[one], slow.state[other]
        assert state.keys() == expected.keys()
        for name in state:
            torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6)


def test_rows_that_were_not_read_keep_their_bits() -> None:
    pair = tables()
    before = [table.detach().clone() for table in pair]
    optimizer = RowAdam(pair)
    for seed in range(3):
        take(optimizer, pair, [3, 5, 3], seed)
    for table, old in zip(pair, before, strict=True):
        assert (table != old).any(dim=1).nonzero().view(-1).tolist() == [3, 5]


@pytest.mark.parametrize("first", [RowAdam, torch.optim.SparseAdam])
def test_a_state_goes_on_even_sparse_adam_s(first: type[torch.optim.Optimizer]) -> None:
    straight, broken = tables(), tables()
    one, two = RowAdam(straight), first(broken)  # type: ignore[call-arg]
    for optimizer, pair in ((one, straight), (two, broken)):
        take(optimizer, pair, [1, 2, 1], 7)
    resumed = RowAdam(broken)
    resumed.load_state_dict({**resumed.state_dict(), "state": two.state_dict()["state"]})
    for optimizer, pair in ((one, straight), (resumed, broken)):
        take(optimizer, pair, [2, 2, 9], 8)
    for table, other in zip(straight, broken, strict=True):
        if first is RowAdam:
            assert torch.equal(table, other)
        torch.testing.assert_close(table, other)


def test_tables_without_a_gradient_stay_and_a_closure_is_asked() -> None:
    pair = tables()
    before = [table.detach().clone() for table in pair]
    optimizer = RowAdam(pair)

    def closure() -> float:
        pair[0].grad = gradient([0], 4, 1, False)
        return 2.5

    assert optimizer.step(closure) == 2.5
    assert torch.equal(pair[1], before[1])
    assert not torch.equal(pair[0], before[0])
