"""What benchmarks found: as tables that the commands print too, and as a machine's section of a markdown file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from recsys.bench.card import gpu_name
from recsys.bench.lookup_peers import DTYPES
from recsys.bench.report_gpu import GPU_REPORTS, GpuBench
from recsys.bench.report_sessions import SESSION_REPORTS, SessionBench
from recsys.files import make_folder
from recsys.machine import read_machine
from recsys.markdown import Cells, check_section, table, write_section
from recsys.training.study.made import made_with

__all__ = [
    "LOOKUP_FACTS",
    "STRATEGIES_FACTS",
    "Bench",
    "Section",
    "distributions_cells",
    "errors_line",
    "lookup_cells",
    "plans_cells",
    "strategies_cells",
]

Bench = Literal["lookup", "dataflow", "strategies", SessionBench, GpuBench]
Row = Mapping[str, Any]

LOOKUP_FACTS = {
    "figures": "processor time of one thread, wall time of two; medians of interleaved turns",
    "ratios": "best peer of a class ÷ ours beside that class, for two threads ours on one ÷ ours on two",
}
"""How to read what `recsys bench lookup` found."""

STRATEGIES_FACTS = {"figures": "processor time of one thread; medians of interleaved turns, of ids just made"}
"""How to read what `recsys bench strategies` found."""

_TITLES: dict[Bench, str] = {
    "lookup": "Look-ups of whole workloads",
    "lookup-gpu": "Look-ups of whole workloads on a GPU",
    "dataflow": "Plans of look-ups, predicted beside measured",
    "gpu-dataflow": "Look-ups on a GPU, predicted beside measured",
    "gpu-larger": "A model larger than a GPU's memory",
    "strategies": "Strategies of looking up, on one core",
    "session": "Sessions beside torchrec, torch.compile and FuxiCTR",
    "session-gpu": "Sessions on a GPU beside torch, torch.compile and FBGEMM in a graph",
    "optimize": "Models that know nothing of recsys, optimised",
    "request": "From a request as dicts to its scores",
    "score": "Batch scoring",
    "serve": "Requests over HTTP",
}
_COLUMNS = ("ids", "batch", "ours fp32, µs", "p99, µs", "best stock peer, µs", "best tuned peer, µs",
            *(f"tuned {dtype} ÷ ours" for dtype in DTYPES), "one thread ÷ two", "of the bound")  # fmt: skip
_PLANS = ("workload", "ids", "batch", "cores", "predicted", "measured", "bound", "symmetric (cores)", "one core",
          "FBGEMM (threads)", "symmetric ÷ ours")  # fmt: skip
_STRATEGIES = ("workload", "strategy", "bytes a row", "batch", "µs", "gather, µs", "ns an id", "gather, ns an id",
               "gather ÷ strategy")  # fmt: skip


class Section:
    """A benchmark's section of a markdown file, one for each machine: ``<!-- bench: lookup amd-epyc-7b13-8 -->``.

    What a GPU did is its own: ``<!-- bench: lookup-gpu nvidia-h100-80gb-hbm3 -->``.

    Made before anything is measured: a broken file is refused then, and the commit is that of the code that runs.

    Args:
        bench: Which.
        file: Made where it is not there; text outside of the section's markers stays as it is.

    Attributes:
        picture: Where a picture of it goes, which `write` shows if it is there.

    Raises:
        DataError: When one marker lacks the other, the file is no text, or the disk refuses.
    """

    def __init__(self, bench: Bench, file: Path) -> None:
        machine = _name(bench, {**read_machine(), "gpu": gpu_name()})
        self.file, self.name = file, f"bench: {bench} {machine}"
        self.picture = file.parent / "results" / f"{bench}-{machine}.png"
        self._made = made_with()
        make_folder(file.parent)
        check_section(file, self.name)

    def write(self, found: Row, command: str) -> None:
        """Put tables of what was found there, the machine, the date, and the command line that makes them.

        Raises:
            DataError: As above.
        """
        about, body = _BODIES[found["bench"]](found)
        machine = found["machine"]
        where = machine["gpu"] if _on_gpu(found["bench"], machine) else f"{machine['cpu']}, {machine['cores']} cores"
        title = f"## {_TITLES[found['bench']]}: {where}"
        facts = {**_machine_facts(machine), "written": f"{_today()}, by {self._made}", **about}
        listed = [f"- {name}: {fact}" for name, fact in facts.items()]
        if self.picture.is_file():
            body = [*body, f"![{_TITLES[found['bench']]}]({self.picture.relative_to(self.file.parent)})", ""]
        write_section(self.file, self.name, "\n".join([title, "", "```bash", command, "```", "", *listed, "", *body]))


def _name(bench: Bench, machine: Row) -> str:
    """``AMD EPYC 7B13`` with 8 cores is ``amd-epyc-7b13-8``; a GPU is called by its own name."""
    cpu = re.sub(r"\((r|tm)\)|\bcpu\b|@.*", " ", machine["cpu"].lower())
    name = machine["gpu"].lower() if _on_gpu(bench, machine) else f"{cpu} {machine['cores']}"
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def _on_gpu(bench: Bench, machine: Row) -> bool:
    return bench in GPU_REPORTS and machine["gpu"] is not None


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _machine_facts(machine: Row) -> dict[str, str]:
    told = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, huge pages: {machine['huge_pages']}"
    told += "" if machine["gpu"] is None else f", GPU: {machine['gpu']}"
    named = ("cpu", "cores", "system", "huge_pages", "gpu", "recsys", "torch")  # `made_with` has the last two
    versions = [f"{name} {version or 'absent'}" for name, version in machine.items() if name not in named]
    return {"machine": told, "versions": ", ".join(versions)}


# --- lookup


def _lookup_body(found: Row) -> tuple[dict[str, str], list[str]]:
    lines = []
    for cells in lookup_cells(found):
        heading, *rest = table(cells, 3)
        lines += [heading, "", found["workloads"][cells.title]["about"], *rest]
    if found["distributions"]:
        lines += table(distributions_cells(found), 3)
    return LOOKUP_FACTS, lines


def lookup_cells(found: Row) -> list[Cells]:
    """A table for each workload: ours beside the best peers, for each batch and way that ids fall."""
    return [Cells(name, _COLUMNS, tuple(_lookup_rows(found["rows"], name))) for name in found["workloads"]]


def _lookup_rows(rows: Sequence[Row], workload: str) -> list[tuple[str, ...]]:
    cells: dict[tuple[str, int], dict[tuple[int, str], Row]] = {}
    for row in rows:
        if row["workload"] == workload:
            cells.setdefault((row["ids"], row["batch"]), {})[row["threads"], row["dtype"]] = row
    return [(ids, f"{batch:,}", *_lookup_row(found)) for (ids, batch), found in cells.items()]


def _lookup_row(found: Mapping[tuple[int, str], Row]) -> tuple[str, ...]:
    """Of one batch, by number of threads and dtype."""
    one, two = found[1, "fp32"], found.get((2, "fp32"))
    alike = [_times(found[1, dtype]["ratio_tuned_dtype"]) for dtype in DTYPES]
    return (
        *(f"{one['ours'][key]:,.1f}" for key in ("us", "p99_us")),
        *(_best(one, kind) for kind in ("stock", "tuned")),
        *alike,
        _times(two["ratio_one_thread"] if two else None),
        "–" if one["share_of_bound"] is None else f"{one['share_of_bound']:.0%}",
    )


def _best(row: Row, kind: str) -> str:
    """The fastest peer of a class, its time and the ratio."""
    peers = [peer for peer in row["peers"] if peer["class"] == kind]
    if not peers:
        return "–"
    best = min(peers, key=lambda peer: float(peer["us"]))
    return f"{best['name']} {best['us']:,.1f}: {_times(row[f'ratio_{kind}'])}"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f} ×"


def distributions_cells(found: Row) -> Cells:
    """How much it matters how ids fall on the rows: ours, fp32, on one thread."""
    header = ("workload", "slowest ids", "fastest ids", "batch", "slowest, µs", "fastest, µs", "slowest ÷ fastest")
    rows = [
        (
            one["workload"],
            one["slowest"]["ids"],
            one["fastest"]["ids"],
            f"{one['batch']:,}",
            f"{one['slowest']['us']:,.1f}",
            f"{one['fastest']['us']:,.1f}",
            _times(one["ratio"]),
        )
        for one in found["distributions"]
        if one["dtype"] == "fp32"
    ]
    return Cells("how much it matters how ids fall: ours, fp32, one thread", header, tuple(rows), left=3)


# --- dataflow


def _dataflow_body(found: Row) -> tuple[dict[str, str], list[str]]:
    figures = "medians of batches that are new each time; plans take turns, FBGEMM at its best thread count after them"
    return {"platform": found["platform"], "figures": figures}, [*table(plans_cells(found), 3), errors_line(found), ""]


def plans_cells(found: Row) -> Cells:
    """Our plan of each workload and batch, predicted and measured, beside the best symmetric one and FBGEMM."""
    return Cells("plans, µs a batch", _PLANS, tuple(map(_plan_row, found["rows"])), left=2)


def _plan_row(row: Row) -> tuple[str, ...]:
    used = len({piece["core"] for piece in row["pieces"]})
    fbgemm = "–" if row["fbgemm_us"] is None else f"{row['fbgemm_us']:,.1f} ({row['fbgemm_threads']})"
    return (
        row["workload"],
        row["ids"],
        f"{row['batch']:,}",
        f"{used}",
        *(f"{row[key]:,.1f}" for key in ("predicted_us", "us", "bound_us")),
        f"{row['symmetric_us']:,.1f} ({row['symmetric_cores']})",
        f"{row['one_core_us']:,.1f}",
        fbgemm,
        _times(row["ratio_symmetric"]),
    )


def errors_line(found: Row) -> str:
    """How well plans and their pieces were predicted."""
    whole = (
        f"plans: predicted within {found['median_plan_error']:.0%} (median), at worst {found['worst_plan_error']:.0%}"
    )
    if found["median_error"] is None:
        return f"{whole}; all pieces are shorter than a microsecond"
    pieces = f"{found['pieces_counted']:,} of {found['pieces']:,} pieces, those of a microsecond or more"
    return f"{whole}; {pieces}: within {found['median_error']:.0%} (median), at worst {found['worst_error']:.0%}"


# --- strategies


def _strategies_body(found: Row) -> tuple[dict[str, str], list[str]]:
    return STRATEGIES_FACTS, table(strategies_cells(found), 3)


def strategies_cells(found: Row) -> Cells:
    """Each workload by the strategy that its tables were made for, beside `gather`."""
    rows = [
        (
            row["workload"],
            row["strategy"],
            *(f"{row[key]:,}" for key in ("row_bytes", "batch")),
            *(f"{row[key]:,.1f}" for key in ("us", "gather_us")),
            *(f"{row[key]:.2f}" for key in ("ns_an_id", "gather_ns_an_id")),
            _times(row["ratio"]),
        )
        for row in found["rows"]
    ]
    return Cells("all look-ups of a workload by one strategy", _STRATEGIES, tuple(rows), left=2)


# --- sessions


def _sessions_body(found: Row) -> tuple[dict[str, str], list[str]]:
    return _whole(SESSION_REPORTS[found["bench"]](found))


def _gpu_body(found: Row) -> tuple[dict[str, str], list[str]]:
    return _whole(GPU_REPORTS[found["bench"]](found))


def _whole(report: tuple[dict[str, str], list[Cells]]) -> tuple[dict[str, str], list[str]]:
    facts, tables = report
    return facts, [line for cells in tables for line in table(cells, 3)]


_BODIES: dict[Bench, Callable[[Row], tuple[dict[str, str], list[str]]]] = {
    "lookup": _lookup_body,
    "dataflow": _dataflow_body,
    "strategies": _strategies_body,
    **dict.fromkeys(SESSION_REPORTS, _sessions_body),
    **dict.fromkeys(GPU_REPORTS, _gpu_body),
}
"""Of each benchmark: how to read it, and its tables as lines."""
