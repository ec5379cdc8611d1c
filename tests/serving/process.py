"""A server in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def started(run: Path, *words: str, first: str = "") -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """`recsys serve` and its address.

    Args:
        run: Folder of the model.
        words: Further words of the command line.
        first: Code that the process runs before.
    """
    code = f"{first}\nimport sys\nfrom recsys.cli.app import main\nsys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, "serve", str(run), "--port", "0", *words]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert " on http://127.0.0.1:" in told, process.communicate()[1]
        yield process, ("127.0.0.1", int(told.split("127.0.0.1:")[1].split(":")[0]))
    finally:
        process.kill()
        process.communicate()
