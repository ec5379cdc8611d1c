"""A queue of work on a GPU, and graphs of it: what is captured once is launched as one piece."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from recsys.inference.backends import Precision, Run

__all__ = ["Lane"]

_ONE = threading.RLock()
"""Compiling and capturing go by settings of the whole process, so one thread does it at a time."""


class Lane:
    """A stream, and the memory that its graphs share: one of them runs at a time.

    On a CPU, for tests, there is neither, and what was to be captured is called as it is.

    Args:
        device: The GPU.
        precision: Of float32 products, which torch takes from a setting of the whole process when they are captured.
    """

    def __init__(self, device: torch.device, precision: Precision) -> None:
        self._device, self._precision = device, precision
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def captured(self, work: Run) -> Run:
        """A call that launches all that `work` launches; `work` is run before, so that all it needs is made.

        It must be called through `run`.
        """
        if self._stream is None:
            return work
        with _ONE, _products(self._precision, self._device), _quiet():
            self.follow()
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                for _ in range(2):  # the first may compile, and tune itself
                    work()
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                # Other threads may allocate meanwhile: the mode "global" would break the capture for it.
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    work()
            replay: Run = graph.replay
            return replay

    def follow(self) -> None:
        """What is launched from now on comes after what the thread's own stream has to do, such as filling buffers."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def run(self, work: Run) -> None:
        """Launch it on the stream; nobody waits. The thread's own stream is then what it was.

        `torch.cuda.stream` does the same, and takes some µs more.
        """
        if self._stream is None:
            with _ONE, _quiet():  # Triton's interpreter, too, has settings of the whole process
                work()
            return
        before = torch.cuda.current_stream()
        torch.cuda.set_stream(self._stream)
        try:
            work()
        finally:
            torch.cuda.set_stream(before)

    def run_plain(self, work: Run) -> None:
        """Launch what is not captured, with the products' precision."""
        with _ONE, _products(self._precision, self._device):
            self.run(work)

    def wait(self) -> None:
        """Until all that was launched is done."""
        if self._stream is not None:
            self._stream.synchronize()


@contextlib.contextmanager
def _products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Within it float32 products of a GPU are of 23 bits, or for tf32 of 10, whatever the process has chosen.

    Torch sets those of the processor with them, which are put back, too.
    """
    if device.type != "cuda":
        yield
        return
    kinds: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    own = [kind.fp32_precision for kind in kinds]
    try:
        old: str = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the newer of torch's two ways alone
        old = "highest"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(old)
        for kind, before in zip(kinds, own, strict=True):
            if kind.fp32_precision != before:
                kind.fp32_precision = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inductor warns that TF32 would be faster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
