"""Products with fixed weights: on a CPU packed for oneDNN, which computes what follows a product with it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OneDNN", "Product", "Torch", "product"]

_ROWS = 32
"""What oneDNN is told to expect: any number above 1 gives one layout, good for few rows and for many."""


class Product(Protocol):
    """``y = x Wᵀ`` and what a Llama block does with it, x [T, in] -> [T, out]."""

    def __call__(self, x: Tensor) -> Tensor:
        """``x Wᵀ``."""
        ...

    def silu(self, x: Tensor) -> Tensor:
        """``silu(x Wᵀ)``."""
        ...

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """``x Wᵀ · other``, element by element."""
        ...

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """``x Wᵀ + other``."""
        ...


class Torch:
    """By torch's own operations, on any device.

    Args:
        weight: [out, in].
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """``x Wᵀ``."""
        return functional.linear(x, self.weight)

    def silu(self, x: Tensor) -> Tensor:
        """``silu(x Wᵀ)``."""
        return functional.silu(self(x), inplace=True)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """``x Wᵀ · other``."""
        return self(x).mul_(other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """``x Wᵀ + other``."""
        return self(x).add_(other)


class OneDNN:
    """By oneDNN, with weights in the blocks its kernels read.

    torch's float32 products go to MKL, which uses half of an AMD core's vector width: packed ones were 2.3 times as
    fast with 256 rows of 512 columns and 2.8 times with 10 (Zen 5); bfloat16 ones, oneDNN's in any case, gained 5 % and
    60 %, for their weights need not be read in another order each time.

    Args:
        weight: [out, in] float32 or bfloat16 on the CPU.
    """

    def __init__(self, weight: Tensor) -> None:
        ops: Any = torch.ops.mkldnn
        self.unary, self.binary = ops._linear_pointwise, ops._linear_pointwise.binary
        self.weight: Tensor = ops._reorder_linear_weight(weight.contiguous(), _ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """``x Wᵀ``."""
        out: Tensor = self.unary(x, self.weight, None, "none", [], "")
        return out

    def silu(self, x: Tensor) -> Tensor:
        """``silu(x Wᵀ)``."""
        out: Tensor = self.unary(x, self.weight, None, "swish", [], "")
        return out

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """``x Wᵀ · other``."""
        out: Tensor = self.binary(x, other, self.weight, None, "mul")
        return out

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """``x Wᵀ + other``."""
        out: Tensor = self.binary(x, other, self.weight, None, "add")
        return out


def product(weight: Tensor, dtype: torch.dtype) -> Product:
    """The fastest product there is for these weights, in a number type."""
    weight = weight.detach().to(dtype)
    packed = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if packed and dtype == torch.bfloat16:
        packed = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return OneDNN(weight) if packed else Torch(weight.contiguous())
