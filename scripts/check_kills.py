"""Kill `recsys train`, its final save and `recsys score` at random moments, and count what that costs.

    python scripts/check_kills.py                    # 100 kills, some ten minutes on two cores
    python scripts/check_kills.py --kills 20 --seed 7

Exits with 1 if it costs anything. After each kill the run folder must load whole or be refused, and the scores must be
absent or whole. The same command is then given again, until it ends by itself: its model must have the bits of a
training that was never killed, and its scores every row once, with the bits of a job that was never killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import recsys
from recsys.data.schema import Categorical, Hashing
from recsys.data.synthetic import Synthetic, chunks, schema, write
from recsys.errors import CheckpointError
from recsys.models.checkpoint import is_checkpoint

CONFIG = Synthetic(history=0)
TRAIN_ROWS, SCORE_ROWS = 150_000, 2_500_000
SHARES = {"train": 0.4, "save": 0.2, "score": 0.4}


class Broken(Exception):
    """A kill has cost something: a run folder, or rows."""

    def __init__(self, told: str, folders: int = 0, rows: int = 0) -> None:
        super().__init__(told)
        self.folders, self.rows = folders, rows


def main() -> int:
    """Make data, run everything once without kills, then with; print counts, the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, counts = random.Random(args.seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="recsys-") as temporary:
        folder = Path(temporary)
        prepare(folder)
        seconds = {what: timed(command(what, folder, "straight")) for what in ("train", "score")}
        print(f"never killed: train {seconds['train']:.1f} s, score {seconds['score']:.1f} s", flush=True)
        cost: list[Broken] = []
        try:
            for what, share in SHARES.items():
                moment = MOMENTS[what](folder, draw, seconds)
                kill(what, folder, round(args.kills * share), moment, counts)
                print(f"{what}: {counts[what]} kills, {counts[f'{what} finished']} finished and compared", flush=True)
        except Broken as broken:
            cost.append(broken)
    result = {
        "kills": {what: counts[what] for what in SHARES},
        "finished": {what: counts[f"{what} finished"] for what in SHARES},
        "broken_folders": sum(broken.folders for broken in cost),
        "rows_lost_or_repeated": sum(broken.rows for broken in cost),
        "problems": [str(broken) for broken in cost],
    }
    print(json.dumps({"bench": "kills", **result}))
    return 1 if cost else 0


def prepare(folder: Path) -> None:
    """Data to train on, with hashed tables of some megabytes, and numbered rows to score."""
    write(CONFIG, folder, {"train": TRAIN_ROWS, "valid": 10_000, "test": 0}, show=False)
    made = schema(CONFIG)
    features = tuple(
        f.model_copy(update={"encoding": Hashing(bits=16)}) if isinstance(f, Categorical) else f for f in made.features
    )
    (folder / "schema.toml").write_text(made.model_copy(update={"features": features}).toml(), encoding="utf-8")
    first = 0
    writer = None
    for table in chunks(CONFIG, SCORE_ROWS):
        numbered = table.append_column("row", pa.array(range(first, first + table.num_rows)))
        writer = writer or pq.ParquetWriter(folder / "in.parquet", numbered.schema)
        writer.write_table(numbered)
        first += table.num_rows
    assert writer is not None
    writer.close()


def command(what: str, folder: Path, name: str) -> list[str]:
    """The command line that is killed; `train` and `save` are one, killed at different moments."""
    run = [sys.executable, "-m", "recsys"]
    if what == "score":
        straight, source, target = folder / "straight", folder / "in.parquet", folder / f"{name}.parquet"
        return [*run, "score", str(straight), str(source), str(target), "--keep", "row"]
    files = [word for split in ("train", "valid") for word in (f"--{split}", str(folder / f"{split}.parquet"))]
    training = ["--training.epochs", "2", "--training.save-seconds", "0.1", "--training.shuffle-rows", "40000"]
    return [
        *run,
        "train",
        "dcn2",
        "--schema",
        str(folder / "schema.toml"),
        *files,
        "--out",
        str(folder / name),
        *training,
    ]


def timed(words: list[str]) -> float:
    """Seconds of a command that is not killed."""
    started = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    return time.monotonic() - started


def kill(
    what: str, folder: Path, kills: int, moment: Callable[[subprocess.Popen[bytes]], None], counts: Counter[str]
) -> None:
    """Start, kill, look, and start again, until there were so many kills; then let it finish."""
    clear(folder)
    while True:
        process = subprocess.Popen(command(what, folder, "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if counts[what] < kills:
            moment(process)
        else:
            process.wait()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        told = process.communicate()[1].decode(errors="replace")
        if process.returncode == -signal.SIGKILL:
            counts[what] += 1
            look(what, folder)
            continue
        if process.returncode and "holds a finished run" not in told:  # it was killed after its last deed
            raise Broken(f"{what} after {counts[what]} kills: {told.strip().splitlines()[-1]}")
        compare(what, folder)
        counts[f"{what} finished"] += 1
        clear(folder)
        if counts[what] >= kills:
            return


def look(what: str, folder: Path) -> None:
    """After a kill: all or nothing."""
    if what == "score":
        if (folder / "killed.parquet").exists():
            compare(what, folder)
        return
    try:
        recsys.load(folder / "killed")
    except CheckpointError as refused:
        if is_checkpoint(folder / "killed"):
            raise Broken(f"a sealed run folder does not load: {refused}", folders=1) from None
    else:
        compare(what, folder)


def compare(what: str, folder: Path) -> None:
    """The finished thing against the one that was never killed."""
    if what == "score":
        table, straight = (pq.read_table(folder / f"{name}.parquet") for name in ("killed", "straight"))
        times = Counter(table["row"].to_pylist())
        wrong = sum(abs(times[row] - 1) for row in range(SCORE_ROWS))
        if wrong:
            raise Broken(f"{wrong:,} rows were lost or repeated", rows=wrong)
        if not table.equals(straight):
            raise Broken("scores have other bits than those of a job that was never killed")
    elif any((folder / "killed" / file).read_bytes() != (folder / "straight" / file).read_bytes()
             for file in ("model.safetensors", "schema.json", "metrics.json")):  # fmt: skip
        raise Broken("the model has other bits than that of a training that was never killed", folders=1)


def clear(folder: Path) -> None:
    """Begin anew."""
    shutil.rmtree(folder / "killed", ignore_errors=True)
    shutil.rmtree(folder / ".killed.parquet.job", ignore_errors=True)
    (folder / "killed.parquet").unlink(missing_ok=True)


def at_random(
    folder: Path, draw: random.Random, seconds: dict[str, float], what: str
) -> Callable[[subprocess.Popen[bytes]], None]:
    """Any moment of the command's time, most of its start left out."""

    def moment(process: subprocess.Popen[bytes]) -> None:
        wait(process, draw.uniform(0.25, 0.9) * seconds[what])

    return moment


def in_save(folder: Path, draw: random.Random, seconds: dict[str, float]) -> Callable[[subprocess.Popen[bytes]], None]:
    """Some milliseconds after the first file of the final save appears, or was removed for it."""

    def moment(process: subprocess.Popen[bytes]) -> None:
        begun = time.time()
        while process.poll() is None and not fresh(folder / "killed", begun):
            time.sleep(0.001)
        wait(process, draw.uniform(0, 0.15))

    return moment


def fresh(run: Path, begun: float) -> bool:
    """Whether a file of weights was begun since."""
    with contextlib.suppress(FileNotFoundError):  # it has got its name meanwhile
        return any(path.stat().st_mtime > begun for path in run.glob("*model*"))
    return False


MOMENTS: dict[str, Callable[[Path, random.Random, dict[str, float]], Callable[[subprocess.Popen[bytes]], None]]] = {
    "train": lambda folder, draw, seconds: at_random(folder, draw, seconds, "train"),
    "save": in_save,
    "score": lambda folder, draw, seconds: at_random(folder, draw, seconds, "score"),
}


def wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """So long, or until it ends."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


if __name__ == "__main__":
    sys.exit(main())
