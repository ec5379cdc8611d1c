"""What scores are: float32, or float64 if one of the labels is a regression."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from recsys.data.inputs import Task

__all__ = ["score_dtype"]


def score_dtype(tasks: Iterable[Task]) -> torch.dtype:
    """Of a network's output, and of what a session gives."""
    return torch.float32 if all(task.kind == "binary" for task in tasks) else torch.float64
