"""Kills of a scoring job at a chosen moment, within the process that tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from recsys.models.checkpoint import Checkpoint
from recsys.scoring import local
from recsys.scoring.journal import Journal
from recsys.scoring.local import score

__all__ = ["Killed", "killed_at", "unfinished"]


class Killed(BaseException):
    """Stands for a kill at a chosen moment: nothing catches it."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on, the step-th change of the disk does not happen any more, nor anything after it."""
    done: list[str] = []

    def dying(name: str, real: Any) -> Any:
        def change(*args: Any, **kwargs: Any) -> Any:
            if len(done) >= step:
                raise Killed(name)
            done.append(name)
            return real(*args, **kwargs)

        return change

    monkeypatch.setattr(Path, "replace", dying("replace", Path.replace))
    monkeypatch.setattr(Path, "unlink", dying("unlink", Path.unlink))
    monkeypatch.setattr(os, "fsync", dying("fsync", os.fsync))
    monkeypatch.setattr(shutil, "rmtree", dying("rmtree", shutil.rmtree))
    return done


def unfinished(trained: Checkpoint, source: Path, target: Path, keep: list[str], batch_size: int = 100) -> None:
    """Leave a job with one part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "PART_ROWS", 300)
        patch.setattr(Journal, "append", _append_once(Journal.append))
        with pytest.raises(Killed):
            score(trained, source, target, keep, batch_size=batch_size, show=False)


def _append_once(real: Any) -> Any:
    def append(self: Journal, record: Any) -> None:
        if self.records:
            raise Killed
        real(self, record)

    return append
