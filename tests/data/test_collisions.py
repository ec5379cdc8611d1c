"""How many ids share a row: counted, against counting by hand, and against chance."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.collisions import Collisions, expected_share
from recsys.data.hashing import hash_rows


def texts(values: list[str]) -> pa.LargeStringArray:
    return pa.array(values, pa.large_string())


def collect(ids: dict[str, list[str]], bits: int, limit: int = 1 << 22) -> Collisions:
    found = Collisions(limit)
    for name, values in ids.items():
        for start in range(0, len(values), 1000):
            part = texts(values[start : start + 1000])
            found.add(name, part, hash_rows(part, name, bits, 42))
    return found


@given(st.lists(st.text(max_size=3), max_size=20), st.lists(st.text(max_size=3), max_size=20), st.integers(1, 5))
def test_shares_are_those_counted_by_hand(a: list[str], b: list[str], bits: int) -> None:
    ids = {"a": a, "b": b}
    row = {(f, t): int(hash_rows(texts([t]), f, bits, 42)[0]) for f, values in ids.items() for t in values}
    readers = Counter(row.values())
    for name, shares in collect(ids, bits).shares().items():
        mine = [readers[row[name, text]] > 1 for text in set(ids[name])]
        assert shares.distinct == len(mine)
        assert shares.colliding == pytest.approx(sum(mine) / max(len(mine), 1))


def test_of_many_ids_a_sample_is_enough_and_chance_is_right() -> None:
    n, bits = 60_000, 16
    ids = {"a": [str(i) for i in range(n)]}
    exact, sampled = collect(ids, bits).shares()["a"], collect(ids, bits, limit=8_000)
    assert exact.distinct == n
    assert exact.colliding == pytest.approx(expected_share(n, (1 << bits) - 1), abs=0.01)
    assert sampled.shares()["a"].distinct == pytest.approx(n, rel=0.05)
    assert sampled.shares()["a"].colliding == pytest.approx(exact.colliding, abs=0.02)
    assert sampled.level > 0
    assert sampled._parts[0][0].size <= 8_000


@pytest.mark.parametrize(("ids", "rows", "share"), [(0, 7, 0.0), (1, 7, 0.0), (2, 2, 0.5), (3, 2, 0.75), (2, 1, 1.0)])
def test_expected_share_by_hand(ids: int, rows: int, share: float) -> None:
    assert expected_share(ids, rows) == pytest.approx(share)


def test_ids_seen_again_and_again_take_no_more_memory() -> None:
    found = Collisions()
    part = texts([str(i) for i in range(20_000)])
    for _ in range(30):
        found.add("a", part, hash_rows(part, "a", 20, 42))
        assert sum(ids.size for ids, _, _ in found._parts) <= 3 * 65_536
    assert found.shares()["a"].distinct == 20_000
