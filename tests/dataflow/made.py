"""Statistics of ids, made up."""

from __future__ import annotations

from hypothesis import strategies as st

from recsys.dataflow.workload import Ids

HOT = ((1, 0.2), (10, 0.5), (400, 0.9), (1000, 1.0))
"""A hot-row curve."""


@st.composite
def ids_like(draw: st.DrawFn) -> Ids:
    sizes = sorted(draw(st.sets(st.integers(0, 500), min_size=1, max_size=5)))
    weights = [draw(st.integers(1, 9)) for _ in sizes]
    bags = tuple((n, w / sum(weights)) for n, w in zip(sizes, weights, strict=True))
    distribution = draw(st.sampled_from(["uniform", "zipf", "equal", "measured"]))
    hot: tuple[tuple[int, float], ...] = ()
    if distribution == "measured":
        rows = sorted(draw(st.sets(st.integers(1, 10**7), min_size=1, max_size=5)))
        shares = sorted(draw(st.lists(st.floats(0.001, 1), min_size=len(rows), max_size=len(rows))))
        hot = (*zip(rows[:-1], shares[:-1], strict=True), (rows[-1], 1.0))
    unique = tuple((b, draw(st.floats(0, 1))) for b in sorted(draw(st.sets(st.integers(1, 9999), max_size=3))))
    return Ids(
        bags=bags,
        distribution=distribution,
        exponent=draw(st.floats(0.1, 3)),
        hot=hot,
        unique=unique,
        source=draw(st.text(max_size=20)),
    )
