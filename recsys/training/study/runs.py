"""The runs of a study: several processes of one thread each, and a journal that keeps what is done."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from recsys.errors import DataError
from recsys.files import make_folder
from recsys.training.study.made import made_with
from recsys.training.study.measure import Run, Task, measure

__all__ = ["Journal", "carry_out"]


class Journal:
    """Finished runs, one JSON line each; a line that a kill cut is left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, Run] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    run = Run.from_json(json.loads(line))
                    self.runs[run.key] = run

    def add(self, run: Run) -> None:
        """Keep a run; when this returns it is on the disk.

        Raises:
            DataError: When the disk refuses.
        """
        make_folder(self.path.parent)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * self._torn() + json.dumps(run.to_json(), allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from None
        self.runs[run.key] = run

    def _torn(self) -> bool:
        """Whether the last line was cut."""
        if not self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


def carry_out(tasks: Sequence[Task], journal: Journal, workers: int, show: bool, what: str) -> list[Run]:
    """The runs of all tasks, in their order; those in the journal are not done again.

    Args:
        tasks: What to run.
        journal: Where runs are kept.
        workers: Processes; 0 runs in this one.
        show: A progress bar on standard error.
        what: The bar's name.

    Raises:
        DataError: When data cannot be read.
    """
    keys = [task.key() for task in tasks]
    open_ = {key: task for key, task in zip(keys, tasks, strict=True) if key not in journal.runs}
    bar = tqdm(total=len(set(keys)), initial=len(set(keys)) - len(open_), desc=what, unit=" runs",
               disable=None if show else True)  # fmt: skip
    made = made_with() if open_ else ""
    with bar:
        for run in _each(list(open_.values()), workers):
            journal.add(replace(run, made=made))
            bar.update()
    return [journal.runs[key] for key in keys]


def _each(tasks: list[Task], workers: int) -> Iterator[Run]:
    if not workers or len(tasks) < 2:
        yield from map(measure, tasks)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    with ProcessPoolExecutor(min(workers, len(tasks)), spawn, _as_worker) as pool:
        try:
            for done in as_completed([pool.submit(measure, task) for task in tasks]):
                yield done.result()
        except BrokenProcessPool:
            raise DataError(
                "a process of the study was killed, perhaps for want of memory: give fewer workers; "
                "the same command goes on where it was"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _as_worker() -> None:
    """End at once on Ctrl-C, which reaches every process of a terminal, and when the process that waits is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
