"""Measure what look-ups cost on this machine, with the kernels that will do them, in under two minutes.

Every quantity is a *probe*: a few short runs of a kernel over ids that were not read before. The probes take turns,
pass after pass, so that a moment when the machine was busy touches each of them a little and not one of them wholly;
the lower quartile over the passes is kept, and how far they lay apart.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.cpu import CpuKernels, isas
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.plan import Piece, Schedule
from recsys.dataflow.plan import Strategy as StrategyName
from recsys.dataflow.platform import Core, Pages, Platform, Reading, Written, read_cores
from recsys.dataflow.storage import Rows, allocate, quantise
from recsys.dataflow.workload import BYTES, Dtype
from recsys.errors import ConfigError
from recsys.machine import available_memory, read_machine
from recsys.threads import torch_threads

__all__ = ["measure"]

WRITTEN = (16, 64, 256, 1024)
ROW_BYTES = (4, 16, 64, 128, 256, 512, 1024, 2048)
WORKING_SETS = tuple(1 << k for k in range(14, 31, 2))
OUTPUTS = (1 << 16, 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 24, 1 << 26)
OUTPUT = 1 << 21
"""Bytes of an output that is written through the caches; several in turn where more is to lie between."""
PAST = 1 << 25
"""Bytes of one that is written past them."""
WRITERS = 26
"""Look-ups that fill an output together, as many as Criteo's; were it 2^k, bags would lie 2^k bytes apart and crowd."""
PASSES = 12
"""At most; as many as there is time for."""
CHUNKS = 12
"""Timed runs of a probe in a pass."""
IDS = 1 << 15
"""Ids of one timed run: long beside a call, short beside the time that a core is taken away for."""
BAG = 32
WAKE_BAGS = 2048
"""A core's share of a batch that threads are woken for: some µs."""
LINE, PAGE, ID_BYTES = 64, 4096, 8


@dataclass(frozen=True)
class Probe:
    """One quantity: `run` gives its value, in ns or µs, once."""

    name: tuple[str | int, ...]
    run: Callable[[], float]


class Bench:
    """Memory, ids and timing that the probes share."""

    def __init__(self, cores: tuple[Core, ...], largest: int) -> None:
        self.cores = cores
        self.sets = [size for size in WORKING_SETS if size <= largest]
        self.small_sets = [size for size in self.sets if size <= 1 << 28]
        self.memory: dict[Pages, Tensor] = {
            "huge": _filled(self.sets[-1]),
            "4k": _filled(self.small_sets[-1], huge=False),
        }
        self.rng = np.random.default_rng(0)

    def rows(self, row_bytes: int, working_set: int, pages: Pages = "huge") -> Rows:
        """A float32 table that fills a working set."""
        count = working_set // row_bytes
        data = self.memory[pages][: count * row_bytes].view(torch.float32).view(count, row_bytes // 4)
        return Rows(data, row_bytes // 4, "fp32")

    def ids(self, rows: int, features: int, bags: int, lengths: Sequence[int] | int = 1) -> JaggedIds:
        """Uniform ids for each of the features."""
        one_each = isinstance(lengths, int) and lengths == 1
        counts = np.full(bags, lengths) if isinstance(lengths, int) else np.resize(lengths, bags)
        values = self.rng.integers(0, rows, int(counts.sum()) * features)
        offsets = torch.from_numpy(np.concatenate([[0], np.tile(counts, features).cumsum()]))
        return JaggedIds(tuple(map(str, range(features))), torch.from_numpy(values), None if one_each else offsets)

    def touch(self, rows: Rows) -> None:
        """Bring a working set into the caches that it fits."""
        rows.data.view(-1).view(torch.int32)[:: LINE // 4].sum()

    def chunk_ns(self, kernels: CpuKernels, batches: Callable[[], JaggedIds], x: Tensor, per: int) -> float:
        """Median ns of a call over fresh batches, divided by `per`."""
        found = []
        for _ in range(CHUNKS):
            ids = batches()
            start = time.perf_counter_ns()
            kernels.look_up(ids, x)
            found.append(time.perf_counter_ns() - start)
        return statistics.median(found) / per

    def call_ns(self, kernels: CpuKernels, ids: JaggedIds, x: Tensor, calls: int) -> float:
        """Median ns of the same call again and again."""
        found = []
        for _ in range(CHUNKS):
            start = time.perf_counter_ns()
            for _ in range(calls):
                kernels.look_up(ids, x)
            found.append((time.perf_counter_ns() - start) / calls)
        return statistics.median(found)

    def rare_call_ns(self, kernels: CpuKernels, ids: JaggedIds, x: Tensor) -> float:
        """Median ns of a call some time after the one before, as those of a server are."""
        found = []
        for _ in range(8 * CHUNKS):
            _busy()
            start = time.perf_counter_ns()
            kernels.look_up(ids, x)
            found.append(time.perf_counter_ns() - start)
        return statistics.median(found)


def _filled(size: int, huge: bool = True) -> Tensor:
    memory, _ = allocate(size, huge)
    return memory.fill_(1)


def measure(seconds: float = 100.0) -> Platform:
    """Measure this machine.

    Args:
        seconds: About how long it may take; passes that do not fit are left out, down to two.

    Raises:
        ConfigError: Where the C++ kernels are not here, or there is too little memory.
    """
    if not isas():
        raise ConfigError("a profile is of the C++ kernels, which are not here: install recsys with a C++ compiler")
    start, cores = time.perf_counter(), read_cores()
    with torch_threads(1):
        bench = Bench(cores, _largest())
        found = _passes(list(_probes(bench)), start + seconds * 0.9)
    return _platform(cores, found, time.perf_counter() - start)


def _largest() -> int:
    """The largest working set: a quarter of the memory that is left at most, for two are made."""
    most = available_memory() // 4
    if most < 4 * WORKING_SETS[4]:
        raise ConfigError(f"a profile needs {16 * WORKING_SETS[4]:,} bytes of memory, {4 * most:,} are left")
    return most


def _passes(probes: list[Probe], until: float) -> dict[tuple[str | int, ...], list[float]]:
    found: dict[tuple[str | int, ...], list[float]] = {probe.name: [] for probe in probes}
    bar = tqdm(total=PASSES * len(probes), desc="profile", unit="probe", disable=None)
    with bar:
        for done in range(PASSES):
            if done >= 2 and time.perf_counter() > until:
                break
            for probe in probes:
                found[probe.name].append(probe.run())
                bar.update()
    return found


def _probes(bench: Bench) -> Iterator[Probe]:
    yield from _reads(bench, "huge", ROW_BYTES, bench.sets)
    yield from _reads(bench, "4k", (64, 512), bench.small_sets)
    yield from _fresh(bench)
    yield from _scattered(bench)
    yield from _writes(bench)
    yield from _bags(bench)
    yield from _columns(bench)
    yield from _streams(bench)
    yield from _vectors(bench)
    yield from _calls(bench)
    yield from _crowds(bench)
    yield Probe(("read",), lambda: _read_ns(bench))
    if len(bench.cores) > 1:
        yield Probe(("edge",), lambda: _edge_ns(bench))
        yield Probe(("write all",), lambda: _write_all_ns(bench))


def _reads(bench: Bench, pages: Pages, row_bytes: Sequence[int], sets: Sequence[int]) -> Iterator[Probe]:
    for size in sets:
        for width in row_bytes:
            rows = bench.rows(width, size, pages)
            kernels = CpuKernels([Slot("0", 0, rows, 0)])
            x = torch.empty(1, rows.dim)

            def one(rows: Rows = rows, kernels: CpuKernels = kernels, x: Tensor = x) -> float:
                bench.touch(rows)
                count = rows.data.shape[0]
                return bench.chunk_ns(kernels, lambda: bench.ids(count, 1, IDS), x.expand(IDS, -1), IDS)

            def more(rows: Rows = rows, kernels: CpuKernels = kernels, x: Tensor = x) -> float:
                bench.touch(rows)
                count, bags = rows.data.shape[0], IDS // BAG
                return bench.chunk_ns(kernels, lambda: bench.ids(count, 1, bags, BAG), x.expand(bags, -1), IDS)

            yield Probe(("one", pages, width, size), one)
            yield Probe(("more", pages, width, size), more)


def _fresh(bench: Bench) -> Iterator[Probe]:
    """Rows of a part of memory that was not read for long, with few enough pages that these are found at once."""
    for width in ROW_BYTES:
        rows = bench.rows(width, bench.sets[-1])
        kernels, x = CpuKernels([Slot("0", 0, rows, 0)]), torch.empty(1, rows.dim).expand(IDS, -1)
        part = min(max(8 << 20, 4 * IDS * width), bench.sets[-1] // 2) // width

        def batch(part: int = part, count: int = len(rows.data)) -> JaggedIds:
            first = int(bench.rng.integers(0, count - part + 1))
            return JaggedIds(("0",), torch.from_numpy(bench.rng.integers(first, first + part, IDS)))

        yield Probe(("fresh", width), lambda k=kernels, b=batch, x=x: bench.chunk_ns(k, b, x, IDS))  # type: ignore[misc]


def _scattered(bench: Bench) -> Iterator[Probe]:
    """Rows that lie alone in 4 KB pages, side by side, of some bytes in all."""
    rows = bench.rows(LINE, bench.sets[-1])
    kernels, x = CpuKernels([Slot("0", 0, rows, 0)]), torch.empty(1, rows.dim).expand(IDS, -1)
    pages, a_page = np.arange(bench.sets[-1] // PAGE), PAGE // LINE
    places = pages * a_page + bench.rng.integers(0, a_page, len(pages))  # one offset would be one cache set
    for size in bench.sets:
        chosen = torch.from_numpy(places[: size // PAGE])

        def run(chosen: Tensor = chosen) -> float:
            rows.data[chosen].sum()
            count = len(chosen)
            return bench.chunk_ns(kernels, lambda: JaggedIds(("0",), chosen[torch.randint(0, count, (IDS,))]), x, IDS)

        yield Probe(("scatter", size), run)


def _writes(bench: Bench) -> Iterator[Probe]:
    """Rows of tables of one row, written to outputs of some bytes in all; ids come from memory, as a batch's do."""
    ring = np.full(1 << 22, 0)  # memory of its own: the system would share zeros that nobody wrote
    for width in WRITTEN:
        for size in OUTPUTS:
            yield Probe(("write one", width, size), _writer(bench, ring, width, size, single=True))
            yield Probe(("write more", width, size), _writer(bench, ring, width, size, single=False))
        if width % LINE == 0:
            yield Probe(("past", width, PAST), _writer(bench, ring, width, PAST, single=True, most=PAST))


def _writer(
    bench: Bench, ring: npt.NDArray[np.int64], width: int, size: int, single: bool, most: int = OUTPUT
) -> Callable[[], float]:
    bags = max(1, min(size, most) // (WRITERS * width))
    names, count = tuple(map(str, range(WRITERS))), WRITERS * bags
    kernels = CpuKernels([Slot(name, k, bench.rows(width, width), k * width // 4) for k, name in enumerate(names)])
    offsets = None if single else torch.arange(count + 1)
    starts = range(0, len(ring) - count + 1, count)
    batches = itertools.cycle([JaggedIds(names, torch.from_numpy(ring[k : k + count]), offsets) for k in starts])
    outputs = torch.zeros(max(1, size // most), bags, WRITERS * width // 4)
    calls = -(-(1 + IDS // count) // len(outputs)) * len(outputs)

    def run() -> float:
        found = []
        for _ in range(CHUNKS):
            chosen = list(zip(itertools.islice(batches, calls), itertools.cycle(outputs), strict=False))
            start = time.perf_counter_ns()
            for ids, x in chosen:
                kernels.look_up(ids, x)
            found.append((time.perf_counter_ns() - start) / calls)
        return statistics.median(found) / count

    return run


def _bags(bench: Bench) -> Iterator[Probe]:
    """Short bags of one length and of many, from a table in the nearest cache."""
    for width in WRITTEN:
        rows = bench.rows(width, 1 << 14)
        kernels = CpuKernels([Slot("0", 0, rows, 0)])
        x = torch.empty(1, rows.dim)
        for name, lengths in (("even", [4]), ("ragged", list(bench.rng.integers(1, 8, 997)))):
            counted = int(np.resize(lengths, IDS // 4).sum())

            def run(kernels: CpuKernels = kernels, x: Tensor = x, lengths: list[int] = lengths) -> float:
                return bench.chunk_ns(kernels, lambda: bench.ids(16, 1, IDS // 4, lengths), x.expand(IDS // 4, -1), 1)

            yield Probe((name, width, counted), run)


def _columns(bench: Bench) -> Iterator[Probe]:
    """Rows of 128 bytes by every dtype, from the nearest cache."""
    floats = torch.rand(128, 128)
    stored: dict[Dtype, Rows] = {
        "fp32": Rows(floats[:, :32].contiguous(), 32, "fp32"),
        "fp16": Rows(floats[:, :64].half(), 64, "fp16"),
        "int8": Rows(quantise(floats), 128, "int8"),
    }
    for dtype, rows in stored.items():
        kernels = CpuKernels([Slot("0", 0, rows, 0)])
        x = torch.empty(1, rows.dim).expand(IDS // BAG, -1)

        def run(kernels: CpuKernels = kernels, x: Tensor = x) -> float:
            return bench.chunk_ns(kernels, lambda: bench.ids(128, 1, IDS // BAG, BAG), x, IDS)

        yield Probe(("columns", dtype), run)


def _planned(
    slots: Sequence[Slot], strategy: StrategyName, rows: tuple[int, int] | None = None, timed: bool = False
) -> CpuKernels:
    pieces = tuple(Piece(lookup=slot.name, core=0, strategy=strategy, rows=rows) for slot in slots)
    return CpuKernels(slots, schedules=[Schedule(batch=1, pieces=pieces, predicted_us=0, bound_us=0)], timed=timed)


def _streams(bench: Bench) -> Iterator[Probe]:
    """Long bags by strategy `stream`: all ids of another range, and all ids of a tile that is in the cache."""
    for width in (64, 512):
        rows = bench.rows(width, 1 << 16)
        slot, x = Slot("0", 0, rows, 0), torch.empty(IDS // BAG, rows.dim)
        away = _planned([slot], "stream", (rows.data.shape[0] - 1, rows.data.shape[0]))
        near = _planned([slot], "stream")

        def run(kernels: CpuKernels, top: int, x: Tensor = x) -> float:
            return bench.chunk_ns(kernels, lambda: bench.ids(top, 1, IDS // BAG, BAG), x, IDS)

        yield Probe(("scan", width), lambda away=away, run=run: run(away, 1))  # type: ignore[misc]
        yield Probe(("add", width), lambda near=near, run=run, n=rows.data.shape[0]: run(near, n))  # type: ignore[misc]


def _vectors(bench: Bench) -> Iterator[Probe]:
    """Sixteen tables of one column, side by side."""
    if isas()[0] != "avx512":
        return
    bags = IDS // 16
    for size in bench.small_sets:
        rows = bench.rows(4, size // 16)
        slots = [Slot(str(k), k, rows, k) for k in range(16)]
        kernels, x = _planned(slots, "vector"), torch.zeros(bags, 16)

        def run(rows: Rows = rows, kernels: CpuKernels = kernels, x: Tensor = x) -> float:
            bench.touch(rows)
            return bench.chunk_ns(kernels, lambda: bench.ids(rows.data.shape[0], 16, bags), x, IDS)

        yield Probe(("vector", size), run)


def _calls(bench: Bench) -> Iterator[Probe]:
    """A call that looks up one id, one with 65 look-ups of one id, and batches shared out among threads that slept."""
    rows = bench.rows(64, 1 << 14)
    for count in (1, 65):
        slots = [Slot(str(k), k, rows, 16 * k) for k in range(count)]
        kernels, ids, x = CpuKernels(slots), bench.ids(256, count, 1), torch.zeros(1, 16 * count)
        yield Probe(("call", count), lambda k=kernels, i=ids, x=x: bench.rare_call_ns(k, i, x))  # type: ignore[misc]
        if count == 1:
            yield Probe(("hot call",), lambda k=kernels, i=ids, x=x: bench.call_ns(k, i, x, 200))  # type: ignore[misc]
    for count in _core_counts(len(bench.cores)):
        yield Probe(("wake", count), lambda count=count: _wake_ns(bench, count))  # type: ignore[misc]


def _core_counts(cores: int) -> list[int]:
    """2, 4, 8, … and all."""
    return sorted({min(1 << k, cores) for k in range(1, 10)}) if cores > 1 else []


def _shared(bench: Bench, slots: Sequence[Slot], count: int) -> CpuKernels:
    """Every one of `count` cores takes an even share of the batch."""
    pieces = [
        Piece(lookup=slot.name, core=core, share=(core / count, (core + 1) / count))
        for core in range(count)
        for slot in slots
    ]
    one = Schedule(batch=1, pieces=tuple(pieces), predicted_us=0, bound_us=0)
    return CpuKernels(slots, cpus=[core.cpu for core in bench.cores[:count]], schedules=[one])


def _wake_ns(bench: Bench, count: int) -> float:
    """What sharing a batch out adds: where its time begins on the line through two sizes of every core's share."""
    rows, times = bench.rows(64, 1 << 18), []
    kernels = _shared(bench, [Slot("0", 0, rows, 0)], count)
    for share in (WAKE_BAGS, 4 * WAKE_BAGS):
        x = torch.zeros(share * count, 17)[:, :16]  # no whole lines, which would be written past the caches
        found = []
        for _ in range(CHUNKS):
            ids = bench.ids(rows.data.shape[0], 1, share * count)
            _busy()
            start = time.perf_counter_ns()
            kernels.look_up(ids, x)
            found.append(time.perf_counter_ns() - start)
        times.append(statistics.median(found))
    return max(times[0] - (times[1] - times[0]) / 3, 0.0)


def _busy() -> None:
    """Long enough for threads to fall asleep; the one that calls does not."""
    until = time.perf_counter() + 0.0002
    while time.perf_counter() < until:
        pass


def _crowds(bench: Bench) -> Iterator[Probe]:
    """Some cores reading at once, each its own long bags, beside one core alone."""
    for size in [bench.sets[k] for k in (2, 5, -1)]:
        for count in _core_counts(len(bench.cores)):
            rows = bench.rows(256, size)
            slots = [Slot("0", 0, rows, 0)]
            alone, shared = CpuKernels(slots), _shared(bench, slots, count)

            def run(rows: Rows = rows, alone: CpuKernels = alone, shared: CpuKernels = shared, n: int = count) -> float:
                bench.touch(rows)
                one, many = 8 * IDS // BAG, 8 * IDS // BAG * n
                x, y = torch.zeros(one, 64), torch.zeros(many, 64)
                single = bench.chunk_ns(alone, lambda: bench.ids(rows.data.shape[0], 1, one, BAG), x, 1)
                shared_ns = bench.chunk_ns(shared, lambda: bench.ids(rows.data.shape[0], 1, many, BAG), y, 1)
                return max(1.0, shared_ns / single)

            yield Probe(("crowd", count, size), run)


def _write_all_ns(bench: Bench) -> float:
    """Nanoseconds of a byte of an output that all cores write past the caches."""
    width, rows = LINE * WRITERS, bench.rows(LINE, LINE)
    slots = [Slot(str(k), k, rows, k * LINE // 4) for k in range(WRITERS)]
    bags = 4 * PAST // width
    kernels, x = _shared(bench, slots, len(bench.cores)), torch.zeros(bags, width // 4)
    return bench.chunk_ns(kernels, lambda: bench.ids(1, WRITERS, bags), x, bags * width)


EDGES = 24
"""Look-ups of the probe, dealt out to two cores in turn."""


def _edge_ns(bench: Bench) -> float:
    """Two cores that write every other look-up's columns, less two that write one half each; by edge and bag."""
    bags, rows = IDS // EDGES, bench.rows(64, 64)
    slots = [Slot(str(k), k, rows, 16 * k) for k in range(EDGES)]
    x, ids = torch.zeros(bags, 16 * EDGES), bench.ids(1, EDGES, bags)
    found = []
    for dealt in ([k % 2 for k in range(EDGES)], [2 * k // EDGES for k in range(EDGES)]):
        pieces = tuple(Piece(lookup=str(k), core=core) for k, core in enumerate(dealt))
        one = Schedule(batch=1, pieces=pieces, predicted_us=0, bound_us=0)
        kernels = CpuKernels(slots, cpus=[core.cpu for core in bench.cores[:2]], schedules=[one])
        found.append(bench.call_ns(kernels, ids, x, calls=10))
    return max(0.0, found[0] - found[1]) / (EDGES * bags)


def _read_ns(bench: Bench) -> float:
    """Nanoseconds of a byte that is read in order."""
    memory = bench.memory["huge"].view(torch.int64)
    start = time.perf_counter_ns()
    memory.sum()
    return (time.perf_counter_ns() - start) / (memory.numel() * 8)


def _platform(cores: tuple[Core, ...], found: dict[tuple[str | int, ...], list[float]], seconds: float) -> Platform:
    value = {name: sorted(times)[len(times) // 4] for name, times in found.items()}  # others disturb, and never help
    reads = [name for name in value if name[0] == "one"]
    spreads = [(max(times) - min(times)) / value[name] for name, times in found.items() if name[0] in ("one", "more")]
    call = value["call", 1] / 1e3
    bags = _bag_ns(value, value["hot call",] / 1e3)
    return Platform(
        cpu=read_machine()["cpu"],
        isa=isas()[0],
        cores=cores,
        seconds=round(seconds, 1),
        spread=round(statistics.median(spreads), 4),
        call_us=round(call, 3),
        lookup_us=round(max(0.0, (value["call", 65] - value["call", 1]) / 64e3), 4),
        wake_us=tuple((int(n[1]), round(max(0.0, us / 1e3 - call), 1)) for n, us in value.items() if n[0] == "wake"),
        crowd=tuple((int(n[1]), int(n[2]), round(times, 3)) for n, times in value.items() if n[0] == "crowd"),
        write_gbs=round(1 / value["write all",], 2) if ("write all",) in value else None,
        edge_ns=round(value.get(("edge",), 0.0), 3),
        read_gbs=round(1 / value["read",], 2),
        bag_ns=bags,
        ragged_ns=round(max(0.0, statistics.median(_ragged(value))), 2),
        column_ns=_column_ns(value),
        scan_ns=round(statistics.median(value["scan", width] for width in (64, 512)), 3),
        sort_ns=round(max(0.1, value["add", 64] - _at(value, "more", 64)), 3),
        add_ns=tuple((w, round(_at(value, "more", w) + _grown(value, w), 3)) for w in (64, 512)),
        vector=_points(value, "vector"),
        fresh=_points(value, "fresh"),
        scatter=_points(value, "scatter"),
        gather=tuple(_reading(value, name) for name in reads),
        past=tuple((int(n[1]), _past(value, int(n[1]))) for n in value if n[0] == "past"),
        write=tuple(_written(value, int(n[1]), int(n[2]), dict(bags)) for n in value if n[0] == "write one"),
    )


Values = dict[tuple[str | int, ...], float]


def _points(value: Values, kind: str) -> tuple[tuple[int, float], ...]:
    return tuple((int(name[1]), round(ns, 3)) for name, ns in value.items() if name[0] == kind)


def _at(value: Values, kind: str, width: int) -> float:
    """From the smallest working set."""
    return value[kind, "huge", width, WORKING_SETS[0]]


def _written(value: Values, width: int, size: int, bag_ns: Mapping[int, float]) -> Written:
    one = value["write one", width, size] - _written_beside(value, width, size) - _at(value, "one", width)
    more = value["write more", width, size] - _written_beside(value, width, size) - _at(value, "more", width)
    return Written(
        row_bytes=width,
        output=size,
        one_ns=round(max(0.0, one), 3),
        more_ns=round(max(0.0, more - bag_ns[width]), 3),
    )


def _written_beside(value: Values, width: int, size: int, most: int = OUTPUT) -> float:
    """What the call and reading the id take of the time of a written row."""
    return value["hot call",] / (WRITERS * max(1, min(size, most) // (WRITERS * width))) + ID_BYTES * value["read",]


def _past(value: Values, width: int) -> float:
    beside = _written_beside(value, width, PAST, PAST) + _at(value, "one", width)
    return round(max(0.0, value["past", width, PAST] - beside), 3)


def _grown(value: Values, width: int) -> float:
    """What adding to memory costs more than a sum in registers does, beside what sorting costs."""
    sort = value["add", 64] - _at(value, "more", 64)
    return max(0.0, value["add", width] - _at(value, "more", width) - sort)


def _reading(value: Values, name: tuple[str | int, ...]) -> Reading:
    _, pages, width, size = name
    kind: Pages = "huge" if pages == "huge" else "4k"
    more = value["more", pages, width, size]
    return Reading(
        row_bytes=int(width),
        working_set=int(size),
        pages=kind,
        one_ns=round(value[name], 3),
        more_ns=round(more, 3),
    )


def _bag_ns(value: Values, call_us: float) -> tuple[tuple[int, float], ...]:
    """Time of a bag of four less four times that of an id of a long one."""
    bags = IDS // 4
    found = {int(n[1]): ns / bags - 4 * _at(value, "more", int(n[1])) for n, ns in value.items() if n[0] == "even"}
    return tuple((width, round(max(0.0, ns - call_us * 1e3 / bags), 3)) for width, ns in found.items())


def _ragged(value: Values) -> list[float]:
    """What a bag costs more where lengths vary, for each row size."""
    bags = IDS // 4
    even = {n[1]: (n[2], ns) for n, ns in value.items() if n[0] == "even"}
    ragged = {n[1]: (n[2], ns) for n, ns in value.items() if n[0] == "ragged"}
    extra = {w: (int(ragged[w][0]) - int(even[w][0])) * _at(value, "more", int(w)) for w in even}
    return [(ragged[w][1] - even[w][1] - extra[w]) / bags for w in even]


def _column_ns(value: Values) -> dict[Dtype, float]:
    dtypes: tuple[Dtype, ...] = ("fp32", "fp16", "int8")
    base = value["columns", "fp32"]
    return {d: round(max(0.0, value["columns", d] - base) / (128 // BYTES[d]), 4) for d in dtypes}
