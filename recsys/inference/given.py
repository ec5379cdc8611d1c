"""What a call gives to a session: does the batch fit the model, and the array for the scores the batch?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data.batch import Batch
from recsys.data.inputs import Task
from recsys.errors import DataError
from recsys.inference.scores import score_dtype
from recsys.layers.tables import TableSpec

__all__ = ["Given", "Scores", "deliver"]

Scores = npt.NDArray[Any]


class Given:
    """Shapes of batches and scores.

    Args:
        spec: What is looked up where.
        tasks: Of the model.
    """

    def __init__(self, spec: TableSpec, tasks: Sequence[Task]) -> None:
        self._features, self._numbers, self._tasks = spec.features, spec.dense, len(tasks)
        self._dtype = np.dtype(str(score_dtype(tasks)).removeprefix("torch."))

    def empty(self, n: int) -> Scores:
        """An array for the scores of n rows."""
        return np.empty(self._shape(n), dtype=self._dtype)

    def _shape(self, n: int) -> tuple[int, ...]:
        return (n,) if self._tasks == 1 else (n, self._tasks)

    def accept(self, batch: Batch, out: Scores | None) -> Scores:
        """The array for the scores of a batch: `out`, or a new one.

        Raises:
            DataError: When the batch or `out` does not fit.
        """
        n, numbers = batch.dense.shape
        if batch.ids.features != self._features or numbers != self._numbers:
            raise DataError(
                f"expected a batch of {self._numbers} numbers and features {', '.join(self._features)}, got "
                f"{numbers} and {', '.join(batch.ids.features)}: encode with the session's encoder"
            )
        if out is None:
            return self.empty(n)
        if not isinstance(out, np.ndarray) or out.shape != self._shape(n) or out.dtype != self._dtype:
            came = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise DataError(f"expected `out` as {self._dtype} {self._shape(n)}, got {came}")
        if not out.flags.writeable:
            raise DataError("expected `out` as an array that can be written to, got a read-only one")
        return out


def deliver(scores: Scores, out: Scores) -> None:
    """Copy scores to who asked for them.

    Raises:
        DataError: When one is not finite.
    """
    np.copyto(out, scores)
    finite = np.isfinite(out)
    if not finite.all():
        bad = out.size - int(finite.sum())
        raise DataError(f"{bad} of {out.size} scores are not finite: the weights are, or numbers are far too large")
