"""Files that appear whole, and locks that die with their process."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.errors import DataError
from recsys.files import locked, move, replacing


def test_a_lock_is_held_by_one_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".lock"
    with locked(path), pytest.raises(DataError, match=rf"another process \(number {os.getpid()}\) is writing there"):
        locked(path).__enter__()
    assert not path.exists()
    with locked(path):
        assert path.exists()


def test_a_lock_is_let_go_when_its_owner_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    script = (
        f"from pathlib import Path; from recsys.files import locked; import time\nwith locked(Path({str(path)!r})):\n"
    )
    script += "    print('held', flush=True); time.sleep(60)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match=f"number {child.pid}"):
            locked(path).__enter__()
        child.send_signal(signal.SIGKILL)
        child.wait()
    with locked(path):
        assert path.read_text() == str(os.getpid())


def test_a_lock_removed_by_its_last_owner_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = tmp_path / ".lock", os.open

    def removed_meanwhile(*args: object, **kwargs: object) -> int:
        handle = opened(*args, **kwargs)  # type: ignore[arg-type]
        monkeypatch.setattr(os, "open", opened)
        path.unlink()
        return handle

    monkeypatch.setattr(os, "open", removed_meanwhile)
    with locked(path):
        assert path.exists()


def test_a_lock_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be (made|written)"):
        locked(tmp_path / "file" / ".lock").__enter__()


def test_a_lock_needs_no_room_on_the_disk_but_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    def unable(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(os, "pwrite", full)
    with locked(tmp_path / ".lock"):
        pass
    monkeypatch.setattr(fcntl, "flock", unable)
    with pytest.raises(DataError, match="this file system has no locks"):
        locked(tmp_path / ".lock").__enter__()


def test_move_follows_a_link_and_says_what_is_wrong(tmp_path: Path) -> None:
    for name in ("new", "newer"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    move(tmp_path / "new", tmp_path / "link")
    assert (tmp_path / "real").read_text() == "new"
    with pytest.raises(DataError, match="cannot be written"):
        move(tmp_path / "newer", tmp_path / "none" / "x")
    assert (tmp_path / "newer").exists()


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "full")

    with pytest.raises(DataError, match="cannot be written: full"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"
