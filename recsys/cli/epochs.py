"""A line of text for each epoch of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from recsys.training.trainer import Progress

__all__ = ["reporter"]


def reporter(screen: Console, speed: str, unit: str, only: Sequence[str] = ()) -> Callable[[Progress], None]:
    """What prints loss, validation metrics and speed of each epoch; a star marks the best so far.

    Args:
        screen: Where to.
        speed: Which entry of a record tells the speed.
        unit: Of the speed.
        only: Validation metrics to show; by default all.
    """

    def report(progress: Progress) -> None:
        record = progress.history[-1]
        valid = {key.removeprefix("valid_"): value for key, value in record.items() if key.startswith("valid_")}
        shown = {key: value for key, value in valid.items() if value is not None and (not only or key in only)}
        told = "  ".join(f"valid {key.replace('_', ' ')} {value:.4f}" for key, value in shown.items())
        best = "  *" if progress.best_epoch == progress.epoch - 1 else ""
        rate = f"{record[speed]:,} {unit}"
        screen.print(f"epoch {record['epoch']:>3}  loss {record['loss']:.4f}  {told}  {rate}{best}", highlight=False)

    return report
