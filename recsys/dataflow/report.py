"""Show a plan: tables for a terminal, and a picture of what each core does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

from rich.table import Table

from recsys.dataflow.plan import DataFlowPlan, Piece, Schedule, Strategy
from recsys.errors import ConfigError
from recsys.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "figure", "kind", "overview", "table"]

COLOURS: dict[Strategy, str] = {"gather": "#56b4e9", "resident": "#009e73", "stream": "#e69f00", "vector": "#cc79a7"}
"""Of Okabe and Ito, which colour-blind people tell apart; black text can be read on all of them."""

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

WIDTH = 0.92
"""Of a column, where the next one begins at 1."""

FONT_SIZES = (8, 7, 6, 5)
"""Of a block's name, in points: the largest that fits."""


def overview(plan: DataFlowPlan) -> Table:
    """A row for each batch size: predicted time, its distance from the bound, the symmetric plan's, and the target."""
    found = Table(title=f"{plan.workload} on {plan.cores} cores of {plan.platform}", title_justify="left")
    for name in ("batch", "cores", "pieces", "predicted µs", "bound µs", "above it", "symmetric µs"):
        found.add_column(name, justify="right")
    if plan.latency_us is not None:
        found.add_column(f"target of {_us(plan.latency_us)} µs", justify="right")
    for schedule in plan.schedules:
        symmetric = "–" if schedule.symmetric_us is None else _us(schedule.symmetric_us)
        cells = [f"{schedule.batch:,}", str(len(schedule.loads())), f"{len(schedule.pieces):,}"]
        cells += [_us(schedule.predicted_us), _us(schedule.bound_us), _above(schedule), symmetric]
        found.add_row(*cells, *([] if plan.latency_us is None else [_target(plan.latency_us, schedule)]))
    return found


def table(plan: DataFlowPlan, schedule: Schedule) -> Table:
    """A row for each look-up and strategy: which cores do what part of it, and the predicted µs of all their time."""
    found = Table(title=f"{plan.workload}, batches of up to {schedule.batch:,}", title_justify="left")
    for name in ("look-up", "rows", "dim", "strategy", "cores", "part", "predicted µs"):
        found.add_column(name, justify="right" if name in ("rows", "dim", "predicted µs") else "left")
    tables = {table.name: table for table in plan.tables}
    order = {lookup.name: place for place, lookup in enumerate(plan.lookups)}
    pieces = sorted(schedule.pieces, key=lambda piece: (order[piece.lookup], piece.strategy))
    for (name, strategy), same in groupby(pieces, key=lambda piece: (piece.lookup, piece.strategy)):
        own = list(same)
        read = tables[plan.lookups[order[name]].table]
        us = _us(sum(piece.predicted_us for piece in own))
        found.add_row(name, f"{read.rows:,}", str(read.dim), strategy, _cores(own), _part(own, read.rows), us)
    return found


def _us(us: float) -> str:
    return f"{us:,.0f}" if us >= 1000 else f"{us:.1f}" if us >= 10 else f"{us:.2f}"


def _above(schedule: Schedule) -> str:
    """How far it is from the bound."""
    return f"{schedule.predicted_us / schedule.bound_us - 1:.1%}" if schedule.bound_us else "–"


def _target(target: float, schedule: Schedule) -> str:
    over = schedule.predicted_us - target
    return "met" if over <= 0 else f"missed by {_us(over)}"


def _cores(pieces: Iterable[Piece]) -> str:
    """``0–3, 7``."""
    numbers = sorted({piece.core for piece in pieces})
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _part(pieces: Sequence[Piece], rows: int) -> str:
    """What part of a look-up the pieces are."""
    ranges = {piece.rows for piece in pieces if piece.rows is not None}
    shares = {piece.share for piece in pieces}
    found = []
    if ranges:
        found.append(_amount("rows", sum(stop - start for start, stop in ranges) / rows, len(ranges)))
    if shares != {(0.0, 1.0)}:
        found.append(_amount("bags", sum(stop - start for start, stop in shares), len(shares)))
    return ", ".join(found) or "all"


def _amount(what: str, held: float, count: int) -> str:
    """``25% of the rows in 2 parts``."""
    amount = what if held > 0.9999 else f"{100 * held:.3g}% of the {what}"
    return amount if count == 1 else f"{amount} in {count} parts"


def draw(plan: DataFlowPlan, path: Path, batch: int | None = None) -> None:
    """Write the picture of the schedule for a batch size, by default the largest; the file's ending says the format.

    Raises:
        ConfigError: When there is no such format.
        DataError: When the disk refuses.
    """
    ending = kind(path)
    drawn = figure(plan, plan.schedules[-1] if batch is None else plan.schedule(batch))
    with replacing(path) as temporary:
        drawn.savefig(temporary, format=ending, dpi=150)


def kind(path: Path) -> str:
    """The format that a picture's name asks for.

    Raises:
        ConfigError: When there is no such format.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    found, known = path.suffix.removeprefix(".").lower(), sorted(FigureCanvasBase.get_supported_filetypes())
    if found not in known:
        raise ConfigError(f"{path}: `{found}` is no format of pictures; known: {', '.join(known)}")
    return found


class _Block(NamedTuple):
    """A piece in the picture, from `bottom` µs up."""

    piece: Piece
    column: int
    bottom: float

    @property
    def corners(self) -> list[tuple[float, float]]:
        left, right, top = self.column - WIDTH / 2, self.column + WIDTH / 2, self.bottom + self.piece.predicted_us
        return [(left, self.bottom), (right, self.bottom), (right, top), (left, top)]


def figure(plan: DataFlowPlan, schedule: Schedule) -> Figure:
    """Columns are the cores that work, blocks their pieces; lines show the bound and what else to compare with.

    Blocks are named where there is room; those of some of the rows are hatched.
    """
    from recsys.pictures import new_figure

    columns = _columns(schedule)
    waking = schedule.predicted_us - max(sum(p.predicted_us for p in own) for own in columns.values())
    drawn = new_figure(min(max(4.0 + 0.6 * len(columns), 7.0), 16.0), 6.0)
    axes: Axes = drawn.subplots()
    axes.set(xlim=(-0.6, len(columns) - 0.4), xlabel="core", ylabel="predicted µs", xmargin=0)
    axes.set_xticks(range(len(columns)), [str(core) for core in columns], fontsize=8 if len(columns) < 40 else 6)
    axes.set_title(_headline(plan, schedule, len(columns)), fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    blocks = _blocks(columns, max(waking, 0.0))
    _fill(axes, blocks, max(waking, 0.0))
    _mark(axes, plan, schedule)
    drawn.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    drawn.draw_without_rendering()  # settles how large the columns are
    _name(axes, blocks, len(columns))
    return drawn


def _columns(schedule: Schedule) -> dict[int, list[Piece]]:
    """Core -> its pieces, those of one strategy together, the longest first."""
    found: dict[int, list[Piece]] = {}
    for piece in sorted(schedule.pieces, key=lambda p: (STRATEGIES.index(p.strategy), -p.predicted_us)):
        found.setdefault(piece.core, []).append(piece)
    return dict(sorted(found.items()))


def _blocks(columns: dict[int, list[Piece]], waking: float) -> list[_Block]:
    found = []
    for column, pieces in enumerate(columns.values()):
        bottom = waking
        for piece in pieces:
            found.append(_Block(piece, column, bottom))
            bottom += piece.predicted_us
    return found


def _headline(plan: DataFlowPlan, schedule: Schedule, used: int) -> str:
    found = f"{plan.workload}, batches of up to {schedule.batch:,}: {_us(schedule.predicted_us)} µs"
    found += f" on {used} of {plan.cores} cores, {_above(schedule)} above the bound"
    return found if plan.latency_us is None else f"{found}; target {_target(plan.latency_us, schedule)}"


def _fill(axes: Axes, blocks: Sequence[_Block], waking: float) -> None:
    """The blocks as a few collections: a symmetric plan of 64 cores has many thousands."""
    from matplotlib.collections import PolyCollection

    edge = 0.6 if len(blocks) < 2000 else 0.1
    for strategy, colour in COLOURS.items():
        own = [block.corners for block in blocks if block.piece.strategy == strategy]
        if own:
            axes.add_collection(
                PolyCollection(own, facecolors=colour, edgecolors="white", linewidths=edge, label=strategy)
            )
    cut = [block.corners for block in blocks if block.piece.rows is not None]
    if cut:
        lines = PolyCollection(
            cut, facecolors="none", edgecolors="#00000055", hatch="///", linewidths=0, label="some of the rows"
        )
        axes.add_collection(lines)
    if waking > 0:
        axes.axhspan(0, waking, color="#dddddd", linewidth=0, label="call and waking", zorder=0)


def _mark(axes: Axes, plan: DataFlowPlan, schedule: Schedule) -> None:
    """Lines to compare with; what is far above is only named, for it would flatten the rest."""
    top = 1.06 * schedule.predicted_us
    marks = (("bound", schedule.bound_us, "-"), ("symmetric plan", schedule.symmetric_us, "--"))
    for name, us, style in (*marks, ("target", plan.latency_us, ":")):
        if us is not None:
            axes.axhline(us, color="black", linewidth=1.3, linestyle=style, label=f"{name} {_us(us)} µs", zorder=3)
            top = max(top, 1.06 * us) if us <= 1.5 * schedule.predicted_us else top
    axes.set_ylim(0, top or 1.0)


def _name(axes: Axes, blocks: Sequence[_Block], columns: int) -> None:
    """Write into each block what fits: its look-up and µs, or its look-up, lying or upright."""
    extent = axes.get_window_extent()
    dpi = axes.figure.dpi if axes.figure else 72.0
    wide = WIDTH * extent.width / (columns + 0.2) * 72 / dpi
    per_us = extent.height / axes.get_ylim()[1] * 72 / dpi
    for block in blocks:
        high = block.piece.predicted_us * per_us
        fit = _fit(block.piece, wide, high)
        if fit is not None:
            text, size, rotation = fit
            middle = block.bottom + block.piece.predicted_us / 2
            ground = {"facecolor": COLOURS[block.piece.strategy], "edgecolor": "none", "pad": 0.4}
            axes.text(
                block.column,
                middle,
                text,
                size=size,
                rotation=rotation,
                ha="center",
                va="center",
                zorder=4,
                bbox=ground,
            )


def _fit(piece: Piece, wide: float, high: float) -> tuple[str, int, int] | None:
    """The first text, size and rotation that fits into so many points."""
    for text in (f"{piece.lookup}  {_us(piece.predicted_us)}", piece.lookup):
        for size in FONT_SIZES:
            long = 0.62 * size * len(text) + 2
            for rotation, along, across in ((0, wide, high), (90, high, wide)):
                if long <= along and 1.15 * size <= across:
                    return text, size, rotation
    return None
