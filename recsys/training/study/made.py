"""What code a run was made with: a journal may hold runs of several versions, and the report must say so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

import recsys

__all__ = ["made_with"]


def made_with() -> str:
    """Versions, and the commit when the working directory is a checkout of this project."""
    commit = _commit()
    return f"recsys {recsys.__version__}{f' at commit {commit}' if commit else ''}, torch {torch.__version__}"


def _commit() -> str | None:
    """The short name of the commit, marked if files were changed since; None outside of a checkout."""
    top, head, changed = (_git(*words) for words in (
        ("rev-parse", "--show-toplevel"), ("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "-uno")
    ))  # fmt: skip
    if not top or not head or Path(top).resolve() != Path(recsys.__file__).resolve().parents[1]:
        return None
    return f"{head} with changes" if changed else head


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if not done.returncode else None
