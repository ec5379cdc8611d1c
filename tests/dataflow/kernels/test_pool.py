"""The threads of a plan: many callers, many executors, forks, cores that are taken away, and what they cost at rest."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels import cpu
from recsys.dataflow.kernels.cpu import CpuKernels
from recsys.dataflow.kernels.reference import Slot, look_up
from recsys.dataflow.plan import Piece, Schedule
from tests.dataflow.slots import ids, slots, width

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"the C++ kernels were not built: {cpu.missing}")
linux = pytest.mark.skipif(sys.platform != "linux", reason="threads are looked at in /proc")
ROOT = Path(__file__).parents[3]
TASKS = Path("/proc/self/task")


def tables(seed: int = 0) -> list[Slot]:
    return slots((16, 16, 3, 128), rows=(50, 5000), seed=seed)


def shared_out(found: Sequence[Slot], lanes: int) -> Schedule:
    """Every look-up is shared out among all lanes, the last one by rows too."""
    pieces = []
    for slot in found:
        half = slot.rows.data.shape[0] // 2
        for lane in range(lanes):
            share = (lane / lanes, (lane + 1) / lanes)
            if slot is found[-1]:
                pieces.append(Piece(lookup=slot.name, core=lane, strategy="stream", rows=(0, half), share=share))
                pieces.append(Piece(lookup=slot.name, core=0, strategy="stream", rows=(half, 2 * half), share=share))
            else:
                pieces.append(Piece(lookup=slot.name, core=lane, share=share))
    return Schedule(batch=1, pieces=tuple(pieces), predicted_us=0, bound_us=0)


def kernels(found: Sequence[Slot], cpus: Sequence[int] = (0, 1)) -> CpuKernels:
    return CpuKernels(found, cpus=cpus, schedules=[shared_out(found, len(cpus))])


def case(found: Sequence[Slot], seed: int = 0, size: int = 300) -> tuple[JaggedIds, Tensor]:
    """A batch and what is to come out."""
    batch = ids(found, size, longest=5, seed=seed)
    expected = torch.full((size, width(found)), 7.0)
    look_up(found, batch, expected)
    return batch, expected


def call(kernels: CpuKernels, batch: JaggedIds, expected: Tensor, times: int = 1) -> None:
    for _ in range(times):
        x = torch.full_like(expected, 7.0)
        kernels.look_up(batch, x)
        assert torch.allclose(
            x, expected, rtol=1e-4, atol=1e-4
        )  # `assert_close` imports, and a fork may take the lock along


def threads() -> set[str]:
    """Those of pools; one may end while we look."""
    found = set()
    for path in TASKS.iterdir():
        with suppress(OSError):
            if (path / "comm").read_text() == "recsys-lookup\n":
                found.add(path.name)
    return found


def within(seconds: float, done: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.005)
    return done()


def script(body: str) -> None:
    """Run Python that has `test_pool` at hand, in a process of its own."""
    head = "from tests.dataflow.kernels.test_pool import *\nimport os, sys, threading\ntorch.set_num_threads(1)\n"
    subprocess.run([sys.executable, "-W", "ignore", "-c", head + body], check=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("executors", [1, 2])
def test_many_callers_at_once_get_their_own_numbers(executors: int) -> None:
    made = [tables(seed) for seed in range(executors)]
    ours = [kernels(found, (0, 1, 0)) for found in made]
    cases = [case(made[k % executors], seed=k, size=100 + 50 * k) for k in range(6)]
    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(call, ours[k % executors], *cases[k], times=100) for k in range(6)]
        for one in done:
            one.result()


@pytest.mark.parametrize("cpus", [(0, 0, 0, 0, 0), (0, 5000, -1), (5000, 5001)])
def test_lanes_without_a_cpu_of_their_own_are_served_all_the_same(cpus: Sequence[int]) -> None:
    found = tables()
    call(kernels(found, cpus), *case(found), times=20)


@linux
def test_the_threads_end_with_their_executor() -> None:
    found = tables()
    one = case(found)
    gc.collect()
    before = threads()
    for _ in range(20):
        ours = kernels(found, (0, 1, 1))
        assert threads() <= before, "threads begin with the first batch"
        call(ours, *one)
        assert within(10, lambda: len(threads() - before) == 3)
        del ours
        gc.collect()
        assert within(10, lambda: threads() <= before)


@linux
def test_signals_are_left_to_the_threads_of_the_program() -> None:
    found = tables()
    gc.collect()
    before = threads()
    ours = kernels(found)
    call(ours, *case(found))
    assert within(10, lambda: len(threads() - before) == 2)
    for name in threads() - before:
        status = (TASKS / name / "status").read_text()
        blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
        assert blocked >> (signal.SIGINT - 1) & 1
        assert not blocked >> (signal.SIGSEGV - 1) & 1


def test_threads_at_rest_cost_nothing() -> None:
    found = tables()
    ours = kernels(found, (0, 1, 0, 1))
    call(ours, *case(found), times=3)
    time.sleep(0.01)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.01


@linux
def test_a_forked_child_works_while_the_parents_threads_are_in_a_batch() -> None:
    """Children that call from two threads, that call once, and that only exit; all of them end as Python does."""
    script(
        """
found = tables()
ours, one = kernels(found), case(found)
stop, begun = False, threading.Barrier(3)
def work():
    call(ours, *one)
    begun.wait()
    while not stop:
        call(ours, *one)
busy = [threading.Thread(target=work) for _ in range(2)]
for thread in busy: thread.start()
begun.wait()  # what torch sets up at first is not safe from forks
for turn in range(9):
    time.sleep(0.003 * turn)
    child = os.fork()
    if child == 0:
        if turn % 3 == 0:
            torch.set_num_threads(1)  # nor is it safe from several threads of a child, before
            with ThreadPoolExecutor(2) as pool:
                for done in [pool.submit(call, ours, *one, times=20) for _ in range(2)]: done.result()
        if turn % 3 == 1:
            call(ours, *one, times=20)
            grandchild = os.fork()
            call(ours, *one, times=20)
            if grandchild: assert os.waitpid(grandchild, 0)[1] == 0
        sys.exit()
    end = time.monotonic() + 30
    while (found_ := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end: time.sleep(0.01)
    if found_ != (child, 0):
        print("child", turn, found_, file=sys.stderr)
        os.kill(child, 9)
        os._exit(1)
stop = True
for thread in busy: thread.join()
call(ours, *one)
"""
    )


@linux
def test_a_core_that_is_taken_away_holds_nobody_up() -> None:
    """Its thread may only run when the CPU has nothing else to do, and another program keeps the CPU at work.

    Were its tasks left to it, each of the batches would take longer than this test may.
    """
    script(
        """
free = sorted(os.sched_getaffinity(0))
if len(free) < 2: sys.exit()
found = tables()
ours, one = kernels(found, free[:2]), case(found)
os.sched_setaffinity(0, free[:1])
call(ours, *one)
assert within(10, lambda: len(threads()) == 2)
for name in threads(): os.sched_setscheduler(int(name), os.SCHED_IDLE, os.sched_param(0))
parent = os.getpid()
spin = f"import os\\nos.sched_setaffinity(0, [{free[1]}])\\nprint(flush=True)\\nwhile os.getppid() == {parent}: pass"
other = subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE)
other.stdout.readline()
call(ours, *one, times=2000)
other.kill()
other.wait()
"""
    )


@linux
def test_a_batch_that_runs_out_of_memory_is_an_error_and_the_next_one_is_right() -> None:
    script(
        """
import resource
found = slots((4, 4), rows=(1000,))
pieces = [Piece(lookup=slot.name, core=k, strategy="stream") for k, slot in enumerate(found)]
ours = CpuKernels(found, cpus=[0, 1], schedules=[Schedule(batch=1, pieces=tuple(pieces), predicted_us=0, bound_us=0)])
one, many = case(found), 4 << 20
call(ours, *one)
large = JaggedIds(("0", "1"), torch.zeros(2 * many, dtype=torch.int32), torch.tensor([0, many, 2 * many]))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
for _ in range(3):
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), most))  # of the 48 MiB that sorting needs
    try: ours.look_up(large, torch.zeros(1, width(found)))
    except MemoryError: pass
    else: raise SystemExit("there was memory enough")
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    call(ours, *one, times=5)
"""
    )
