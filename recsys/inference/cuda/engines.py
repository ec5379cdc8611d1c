"""What can run a network on a GPU: eager torch, or Inductor's kernels around the same products."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.export import ExportedProgram

from recsys.errors import ConfigError, DataError
from recsys.inference.backends import Backend, Engine, Precision, Run, cache_folder
from recsys.inference.cuda.module import Form, on_device

__all__ = ["GPU_ENGINES", "GPU_PRECISIONS", "check_engine"]

GPU_PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


class _Eager:
    """Torch's operators one by one."""

    def __init__(self, program: ExportedProgram, precision: Precision, device: torch.device) -> None:
        self._forward = on_device(program, device, precision, "products").forward

    def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Run:
        """A call that launches the network on the stream of the thread."""
        forward = self._forward

        def run() -> None:
            with _alone(out.device):
                out.copy_(forward(*inputs))

        return run


class _Inductor:
    """Compiled by Inductor twice: for one row, and for any number of them.

    What stands between two products is one kernel, and the last one writes into `out`. Products of many rows are the
    library's. Compiled code lies in the user's cache, not in a folder that all users of a machine share.
    """

    many: Form = "products"

    def __init__(self, program: ExportedProgram, precision: Precision, device: torch.device) -> None:
        def compiled(form: Form) -> Callable[..., None]:
            work = _into(on_device(program, device, precision, form))
            found: Callable[..., None] = torch.compile(work, dynamic=form != "sums", fullgraph=True, options=_OPTIONS)
            return found

        self._one, self._many = compiled("sums"), compiled(self.many)

    def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Run:
        """A call that launches the network on the stream of the thread; the first of its kind compiles."""
        forward = self._one if len(out) == 1 else self._many

        def run() -> None:
            with _alone(out.device), _own_cache():
                forward(*inputs, out)

        return run


class _Fused(_Inductor):
    """The same, but products of many rows are kernels of our own, with what follows them."""

    many: Form = "fused"


_OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {"triton.cudagraphs": False, "compile_threads": 1}
"""No threads or processes are left behind, for a dozen kernels."""


def _into(network: Callable[..., Tensor]) -> Callable[..., None]:
    """A call of a network that writes where it is told.

    Its code is its own: torch keeps what it compiled with the code, and refuses to compile the same for the ninth time.
    """

    def work(*given: Tensor) -> None:
        *inputs, out = given
        out.copy_(network(*inputs))

    work.__code__ = work.__code__.replace()
    return work


@contextlib.contextmanager
def _alone(device: torch.device) -> Iterator[None]:
    """Within it the precision is the session's, and not that of an autocast which the caller is in.

    A graph that was captured within one would keep it for all who call later.
    """
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """Within it Inductor keeps what it compiles where recsys keeps its own, unless the user has named a place.

    Inductor names one for Triton, too, which would then be that of all kernels of the process.
    """
    own, triton = (name not in os.environ for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"))
    if own:
        with contextlib.suppress(DataError):  # a folder that cannot be made, as in a container
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "inductor")
    try:
        yield
    finally:
        if own:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
        if triton:
            os.environ.pop("TRITON_CACHE_DIR", None)


GPU_ENGINES: dict[Backend, Callable[[ExportedProgram, Precision, torch.device], Engine]] = {
    "eager": _Eager,
    "inductor": _Inductor,
    "fused": _Fused,
}
"""Of each precision in `GPU_PRECISIONS`."""


def check_engine(backend: str, precision: str) -> None:
    """Refuse what a GPU has not.

    Raises:
        ConfigError: For it.
    """
    if backend not in ("auto", *GPU_ENGINES):
        raise ConfigError(f"expected the back end on a GPU as one of auto, {', '.join(GPU_ENGINES)}, got {backend}")
    if precision not in ("auto", *GPU_PRECISIONS):
        known = ", ".join(GPU_PRECISIONS)
        raise ConfigError(f"expected the precision on a GPU as one of auto, {known}, got {precision}")
