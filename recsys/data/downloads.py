"""Get a file over the network: bounded in size and time, and checked before anybody reads it."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tqdm import tqdm

from recsys.errors import DataError
from recsys.files import sha256

__all__ = ["check", "from_package", "from_url"]

_BLOCK = 1 << 16
_SILENCE_SECONDS = 10.0
_PATIENCE_SECONDS = 300.0


class _Refused(Exception):
    """What came is not what was promised."""


def from_url(url: str, folder: Path, checksum: str, size: int) -> Path:
    """Download `url` into `folder`; a bar on standard error shows how far it is.

    Raises:
        DataError: When the server cannot be reached, is silent for 10 seconds, takes more than five minutes, or sends
            other bytes than `size` and `checksum` promise.
    """
    path = folder / Path(urlsplit(url).path).name
    try:
        with urllib.request.urlopen(url, timeout=_SILENCE_SECONDS) as answer, path.open("xb") as file:
            _copy(answer, file, size)
    except (OSError, http.client.HTTPException, _Refused) as error:
        raise DataError(f"{url} cannot be downloaded: {getattr(error, 'reason', None) or error}") from None
    return check(path, checksum)


def _copy(answer: IO[bytes], file: IO[bytes], size: int) -> None:
    end, left = time.monotonic() + _PATIENCE_SECONDS, size
    with tqdm(total=size, unit="B", unit_scale=True, file=sys.stderr, disable=None, leave=False) as bar:
        while block := answer.read(_BLOCK):
            left -= file.write(block)
            bar.update(len(block))
            if left < 0:
                raise _Refused(f"it sends more than the expected {size:,} bytes")
            if time.monotonic() > end:
                raise _Refused(f"not done after {_PATIENCE_SECONDS:.0f} seconds")
    if left:
        raise _Refused(f"the connection broke off {left:,} bytes before the end")


def from_package(requirement: str, folder: Path, checksum: str) -> Path:
    """Let pip download the wheel of a package, whole and without what it depends on; nothing of it is installed or run.

    pip knows the user's package index, proxies and certificates, and this function knows none.

    Raises:
        DataError: When there is no pip, it fails or takes too long, or the wheel is another.
    """
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    patience = ["--retries", "1", "--timeout", f"{_SILENCE_SECONDS:.0f}"]
    command = [sys.executable, "-m", "pip", "download", *options, *patience, "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"pip cannot download {requirement}: {error}") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise DataError(f"pip cannot download {requirement}: {_last_line(done.stderr)}")
    return check(wheels[0], checksum)


def check(path: Path, checksum: str) -> Path:
    """The path, when the file's SHA-256 is `checksum`.

    Raises:
        DataError: When it is another.
    """
    found = sha256(path)
    if found != checksum:
        raise DataError(f"{path.name} is not the file that was expected: SHA-256 {found}, expected {checksum}")
    return path


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it said nothing"])[-1]
