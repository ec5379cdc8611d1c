"""A multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

__all__ = ["MLP"]


class MLP(nn.Sequential):
    """Linear layers with ReLU and dropout between them, and a linear output unless `out` is None.

    Args:
        width: Columns of the input.
        hidden: Columns of each hidden layer; none makes it linear.
        out: Columns of the output; None ends with the last hidden layer's activation.
        dropout: Share of hidden units that training drops.
    """

    def __init__(self, width: int, hidden: Sequence[int], out: int | None, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise((width, *hidden)):
            layers += [_linear(before, after), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        if out is not None:
            layers.append(_linear(hidden[-1] if hidden else width, out))
        super().__init__(*layers)


def _linear(before: int, after: int) -> nn.Linear:
    layer = nn.Linear(before, after)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
