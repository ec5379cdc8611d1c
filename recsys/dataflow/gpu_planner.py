"""Plan look-ups on GPUs: which tables and rows lie in their memory, which in host memory, and what the CPU does.

*Hot rows.* Those with the most hits a byte, of all tables together, as many as the memory holds (`Knapsack`). Rows
that are left are read over the link. With a target for the latency, the fewest bytes that meet it.

*The CPU.* A long bag of rows in host memory is one row when the CPU has added it up. The tables with the longest bags
are given to it, more and more of them, each time with hot rows chosen anew for the others. Or it adds up what is not
hot of some large tables, whose bags are from some length to some other, while what is not hot of the others is read
over the link. The fastest is taken.

*Dtypes.* Of those that are allowed: each for all tables, and each pair, one for large tables and one for the others.

*Several GPUs.* Tables, by their predicted time, go to the GPU that has least to do and room for their hot rows
(longest processing time first, Graham 1969); then tables are moved away from the GPU that needs longest as long as that
helps. Hot rows are then chosen anew for each GPU.

Everything that is weighed is weighed for every memory, and nothing depends on the clock: plans are deterministic, and
with one GPU more memory never is predicted to take longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations

from recsys.dataflow.gpu_choice import Choice, places_of, row_bytes, written_out
from recsys.dataflow.gpu_cost import GpuCostModel, Load, Predicted
from recsys.dataflow.gpu_plan import GpuPlan, bytes_on_gpu
from recsys.dataflow.heat import Heat
from recsys.dataflow.knapsack import Knapsack
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError

__all__ = ["latencies", "plan"]

LARGE = 0.001
"""Share of all bytes from which a table is large: those may have a dtype of their own, and be the CPU's."""
CPU_TABLES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""How many may be the CPU's, or shared with it."""
STEPS = 24
"""Halvings on the way to the fewest bytes that meet a target."""
MOVES = 64
"""Of tables between GPUs, at most."""


def plan(
    model: GpuCostModel,
    heat: Mapping[str, Heat],
    memory: int,
    gpus: int = 1,
    dtypes: Sequence[Dtype] = (),
    batches: Sequence[int] | None = None,
    latency_us: float | None = None,
    ids: str = "assumed",
) -> GpuPlan:
    """Plan a workload's look-ups for GPUs of one kind.

    Args:
        model: Of the workload and the GPU. Its time for the largest batch is what counts.
        heat: Of every table.
        memory: Bytes that tables may take on each GPU, remaps included.
        gpus: How many.
        dtypes: How tables may be stored; by default as the workload says.
        batches: What to predict; by default the workload's sizes.
        latency_us: For the largest batch. Where it can be met, the fewest bytes that meet it are taken.
        ids: Where the heat comes from.

    Raises:
        ConfigError: When there is nothing to plan, or numbers that cannot be.
    """
    workload = model.workload
    sizes = sorted(set(workload.batch_sizes if batches is None else batches))
    if not workload.lookups or not sizes or sizes[0] < 1 or gpus < 1 or memory < 0:
        raise ConfigError(
            f"expected look-ups, batch sizes, GPUs and memory to plan for, got {len(workload.lookups)} look-ups, "
            f"batches {list(sizes)}, {gpus} GPUs and {memory:,} bytes"
        )
    planner = _Planner(model, heat, gpus, sizes[-1])
    found = planner.best(memory, dtypes)
    if latency_us is not None and found.us <= latency_us:
        found = planner.fewest(memory, dtypes, latency_us)
    made = written_out(model, heat, found, memory, gpus, sizes, latency_us, ids)
    mixed = [table for table in made.tables if table.mixed]
    return made.with_hot({table.name: heat[table.name].chosen(table.hot_rows) for table in mixed})


def latencies(
    model: GpuCostModel,
    heat: Mapping[str, Heat],
    memories: Sequence[int],
    gpus: int = 1,
    dtypes: Sequence[Dtype] = (),
    batch: int | None = None,
) -> list[float]:
    """Predicted µs of a batch, by default of the largest, for plans of each of some memories."""
    planner = _Planner(model, heat, gpus, max(model.workload.batch_sizes) if batch is None else batch)
    return [planner.best(memory, dtypes).us for memory in memories]


class _Planner:
    def __init__(self, model: GpuCostModel, heat: Mapping[str, Heat], gpus: int, batch: int) -> None:
        self.model, self.gpus, self.batch = model, gpus, batch
        self.heat = {table.name: heat[table.name] for table in model.workload.tables}
        self._sacks: dict[tuple[object, ...], Knapsack] = {}

    def best(self, memory: int, dtypes: Sequence[Dtype]) -> Choice:
        """The fastest."""
        found = [self._cpus(memory, stored) for stored in self._stored(dtypes)]
        return min(found, key=lambda one: one.us)

    def fewest(self, memory: int, dtypes: Sequence[Dtype], target: float) -> Choice:
        """That of fewest bytes that meets the target, which is met with all memory."""
        found = self.best(0, dtypes)
        if found.us <= target:
            return found
        low, high, found = 0, min(memory, self.model.workload.bytes), self.best(memory, dtypes)
        for _ in range(STEPS):
            middle = (low + high) // 2
            tried = self.best(middle, dtypes)
            if tried.us <= target:
                high, found = middle, tried
            else:
                low = middle
        return found

    def _stored(self, dtypes: Sequence[Dtype]) -> list[dict[str, Dtype]]:
        tables = self.model.workload.tables
        if not dtypes:
            return [{table.name: table.dtype for table in tables}]
        large = set(self._large())
        allowed = list(dict.fromkeys(dtypes))
        pairs = [(one, one) for one in allowed] + list(permutations(allowed, 2))
        return [{table.name: a if table.name in large else b for table in tables} for a, b in pairs]

    def _large(self) -> list[str]:
        """Large tables, those with the longest bags first."""
        workload = self.model.workload
        longest = {table.name: 0.0 for table in workload.tables}
        for lookup in workload.lookups:
            longest[lookup.table] = max(longest[lookup.table], lookup.ids.mean)
        large = [t for t in workload.tables if t.rows * t.row_bytes >= LARGE * workload.bytes]
        return [table.name for table in sorted(large, key=lambda t: -longest[t.name])]

    def _cpus(self, memory: int, dtypes: Mapping[str, Dtype]) -> Choice:
        """The fastest of the plans in which the CPU has, or shares, none, one, two, … of the large tables."""
        found = [self._placed(memory, dtypes)]
        if self.model.gpu.cpu is not None:
            order = self._large()
            counts = [n for n in CPU_TABLES if n <= len(order)]
            found += [self._placed(memory, dtypes, cpu=order[:n]) for n in counts]
            ends = sorted({0, *counts, len(order)})
            found += [self._placed(memory, dtypes, shared=frozenset(order[a:b])) for a, b in combinations(ends, 2)]
        return min(found, key=lambda one: one.us)

    def _placed(
        self,
        memory: int,
        dtypes: Mapping[str, Dtype],
        cpu: Sequence[str] = (),
        shared: frozenset[str] = frozenset(),
    ) -> Choice:
        names = [name for name in self.heat if name not in cpu]
        hot: dict[str, int | None] = {
            **dict.fromkeys(cpu),
            **(self._sack(names, dtypes).hot(memory * self.gpus) if names else {}),
        }
        gpu = dict.fromkeys(self.heat, 0)
        load = self.model.load(self.batch, dtypes)
        if self.gpus > 1:
            gpu, hot = self._dealt(load, memory, dtypes, hot, shared)
        told = self._told(load, hot, gpu, shared)
        return Choice(dtypes, hot, gpu, max(one.us for one in told), shared, told)

    def _sack(self, names: Sequence[str], dtypes: Mapping[str, Dtype]) -> Knapsack:
        key = tuple(names), tuple(dtypes[name] for name in names)
        if key not in self._sacks:
            heat = {name: self.heat[name] for name in names}
            self._sacks[key] = Knapsack(heat, row_bytes(self.model.workload, dtypes))
        return self._sacks[key]

    def _told(
        self, load: Load, hot: Mapping[str, int | None], gpu: Mapping[str, int], shared: frozenset[str]
    ) -> list[Predicted]:
        places = places_of(self.heat, hot, shared)
        if self.gpus == 1:
            return [load.us(places)]
        return [load.us(places, {name: at == k for name, at in gpu.items()}) for k in range(self.gpus)]

    def _dealt(
        self,
        load: Load,
        memory: int,
        dtypes: Mapping[str, Dtype],
        hot: dict[str, int | None],
        shared: frozenset[str],
    ) -> tuple[dict[str, int], dict[str, int | None]]:
        """Tables by GPU, and their hot rows."""
        size = {table.name: (table.rows, table.dim) for table in self.model.workload.tables}
        need = {name: bytes_on_gpu(*size[name], dtypes[name], n or 0) for name, n in hot.items()}
        us, told = dict.fromkeys(self.heat, 0.0), load.us(places_of(self.heat, hot, shared))
        for slot, one in zip(load.slots, told.lookups.tolist(), strict=True):
            us[slot.table.name] += one
        busy, left, gpu = [0.0] * self.gpus, [memory] * self.gpus, {}
        for name in sorted(us, key=lambda name: (-us[name], name)):
            able = [k for k in range(self.gpus) if need[name] <= left[k]]
            k = min(able, key=lambda k: busy[k]) if able else max(range(self.gpus), key=lambda k: left[k])
            gpu[name] = k
            busy[k] += us[name]
            left[k] = max(0, left[k] - need[name])
        return self._moved(load, memory, dtypes, hot, gpu, shared)

    def _moved(
        self,
        load: Load,
        memory: int,
        dtypes: Mapping[str, Dtype],
        hot: dict[str, int | None],
        gpu: dict[str, int],
        shared: frozenset[str],
    ) -> tuple[dict[str, int], dict[str, int | None]]:
        """Tables moved from the GPU that needs longest to the one that needs least, as long as that helps."""
        cpu = [name for name, n in hot.items() if n is None]

        def tried(gpu: dict[str, int]) -> tuple[list[Predicted], dict[str, int | None]]:
            chosen: dict[str, int | None] = dict.fromkeys(cpu)
            for k in range(self.gpus):
                own = [name for name in self.heat if gpu[name] == k and name not in cpu]
                chosen.update(self._sack(own, dtypes).hot(memory) if own else {})
            return self._told(load, chosen, gpu, shared), chosen

        told, hot = tried(gpu)
        for _ in range(MOVES):
            times = [one.us for one in told]
            first, last = times.index(max(times)), times.index(min(times))
            own = [name for name in sorted(gpu) if gpu[name] == first and name not in cpu]
            moves = [{**gpu, name: last} for name in own] if first != last else []
            ways = [(tried(one), one) for one in moves]
            best = min(ways, key=lambda way: max(one.us for one in way[0][0]), default=None)
            if best is None or max(one.us for one in best[0][0]) >= max(times) * 0.999:
                break
            (told, hot), gpu = best
        return gpu, hot
