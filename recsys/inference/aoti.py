"""Call AOTInductor's shared objects through their C interface, so that threads run side by side.

torch's own loader holds Python's lock while a network runs: two threads that did twice the work took twice as long as
one, and take 1.15 times so. The interface is what torch keeps stable for compiled models
(``torch/csrc/inductor/aoti_runtime/interface.h`` and ``aoti_torch/c/shim.h``).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsys.dataflow.platform import read_cores
from recsys.errors import ConfigError

__all__ = ["SharedObject"]

_Long, _Pointer = ctypes.c_int64, ctypes.c_void_p
_Longs, _Pointers = ctypes.POINTER(_Long), ctypes.POINTER(_Pointer)
_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.bool: "bool",
}


@cache
def _shim() -> Any:
    """The part of libtorch that makes and reads tensors of C pointers."""
    path = Path(torch.__file__).parent / "lib" / "libtorch.so"
    # For all to see: where torch brings a C++ library of its own, a shared object that finds another one crashes.
    found = ctypes.CDLL(str(path) if path.is_file() else None, mode=ctypes.RTLD_GLOBAL)
    found.aoti_torch_create_tensor_from_blob.argtypes = [
        *(_Pointer, _Long, _Longs, _Longs, _Long),
        *(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, _Pointers),
    ]
    for name in ("data_ptr", "sizes", "strides"):
        getattr(found, f"aoti_torch_get_{name}").argtypes = [_Pointer, _Pointers]
    found.aoti_torch_get_dtype.argtypes = [_Pointer, ctypes.POINTER(ctypes.c_int32)]
    found.aoti_torch_delete_tensor_object.argtypes = [_Pointer]
    return found


class SharedObject:
    """A compiled network with one output; any number of threads may run it at once.

    Args:
        path: Built on this machine, by this torch: it is run as it is.

    Raises:
        ConfigError: When it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._shim = _shim()
            self._library = ctypes.CDLL(str(path))
            create = self._library.AOTInductorModelContainerCreateWithDevice
            self._call = self._library.AOTInductorModelContainerRun
            delete = self._library.AOTInductorModelContainerDelete
        except (OSError, AttributeError) as error:
            raise ConfigError(f"{path}: no network that this torch can load: {error}") from None
        create.argtypes = [_Pointers, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p]
        delete.argtypes = [_Pointer]
        self._call.argtypes = [_Pointer, _Pointers, ctypes.c_size_t, _Pointers, ctypes.c_size_t, _Pointer, _Pointer]
        self._handle = _Pointer()
        if create(ctypes.byref(self._handle), len(read_cores()), b"cpu", None):
            raise ConfigError(f"{path}: the network does not start; what it said stands above")
        weakref.finalize(self, delete, self._handle).atexit = False  # a thread may be in it until the very end

    def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Callable[[], None]:
        """A call that reads `inputs` as they are then and fills `out`.

        Raises:
            ConfigError: By the call, when the network fails.
        """
        makers = [self._maker(one) for one in inputs]
        count = len(makers)

        def run() -> None:
            handles, found = (_Pointer * count)(*(make() for make in makers)), (_Pointer * 1)()
            if self._call(self._handle, handles, count, found, 1, None, None):  # it takes the inputs' handles over
                raise ConfigError("the compiled network failed; what it said stands above")
            try:
                self._copy(found[0], out)  # type: ignore[arg-type]
            finally:
                self._shim.aoti_torch_delete_tensor_object(found[0])

        return run

    def _maker(self, tensor: Tensor) -> Callable[[], int | None]:
        """Makes a handle of a tensor, whose memory it shares."""
        size = tensor.dim()
        sizes, strides = (_Long * size)(*tensor.shape), (_Long * size)(*tensor.stride())
        if tensor.dtype not in _NAMES:
            raise ConfigError(f"expected inputs of {', '.join(_NAMES.values())}, got {tensor.dtype}")
        dtype = getattr(self._shim, f"aoti_torch_dtype_{_NAMES[tensor.dtype]}")()
        create = self._shim.aoti_torch_create_tensor_from_blob

        def make() -> int | None:
            handle = _Pointer()
            if create(tensor.data_ptr(), size, sizes, strides, 0, dtype, 0, 0, ctypes.byref(handle)):
                raise ConfigError("torch has no memory for a tensor's handle")
            return handle.value

        return make

    def _copy(self, handle: int, out: Tensor) -> None:
        found = _Pointer()
        self._shim.aoti_torch_get_data_ptr(handle, ctypes.byref(found))
        address = found.value
        if address is None:  # of no elements
            return
        self._shim.aoti_torch_get_sizes(handle, ctypes.byref(found))
        sizes = tuple(ctypes.cast(found, _Longs)[: out.dim()])
        kind = ctypes.c_int32()
        self._shim.aoti_torch_get_dtype(handle, ctypes.byref(kind))
        if sizes != tuple(out.shape) or kind.value != getattr(self._shim, f"aoti_torch_dtype_{_NAMES[out.dtype]}")():
            raise ConfigError(f"the compiled network gives {sizes}, expected {out.dtype} {tuple(out.shape)}")
        self._shim.aoti_torch_get_strides(handle, ctypes.byref(found))
        strides = tuple(ctypes.cast(found, _Longs)[: out.dim()])
        length = 1 + sum((n - 1) * step for n, step in zip(out.shape, strides, strict=True))
        memory = (ctypes.c_char * (length * out.element_size())).from_address(address)
        out.copy_(torch.frombuffer(memory, dtype=out.dtype).as_strided(out.shape, strides))
