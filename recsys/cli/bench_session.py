"""`recsys bench session`, `optimize`, `request`, `score` and `serve`: sessions beside their peers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from recsys.cli.app import Result, command_line
from recsys.cli.show import card_table, cells_table, console
from recsys.inference.backends import Backend

__all__ = ["optimize", "request", "score", "serve", "session"]


def session(
    only: tuple[str, ...] = (),
    batch: tuple[int, ...] = (),
    seconds: float = 1.5,
    cap: int | None = None,
    results: Path | None = None,
    device: str = "cpu",
) -> Result:
    """Measure a session on one core, or on a GPU: Criteo's tables, dim 16, through DCNv2 and DCN², beside its peers.

    Args:
        only: `dcnv2` or `dcn2`; by default both.
        batch: Batch sizes; by default 1, 64, 512 and 4096, and on a GPU 1, 64, 512, 2048 and 8192.
        seconds: About how long is measured for each batch size.
        cap: Cut tables to at most so many rows.
        results: A markdown file whose section of this benchmark and machine is written anew.
        device: `cpu`, or a GPU: `cuda`, `cuda:1`.
    """
    from recsys.bench.report import Section

    section = None if results is None else Section("session" if device == "cpu" else "session-gpu", results)
    if device == "cpu":
        from recsys.bench.session import measure

        found = measure(only, batch, seconds, cap)
    else:
        from recsys.bench.gpu_session import measure as measure_on_gpu

        found = measure_on_gpu(device, only, batch, seconds, cap)
    _show(found)
    if section is not None:
        given = {"only": only, "batch": batch, "seconds": seconds, "cap": cap, "results": results, "device": device}
        section.write(found, command_line(session, "recsys bench session", given))
    return found


def optimize(
    batch: tuple[int, ...] = (1, 64, 512), seconds: float = 1.0, cap: int = 20_000_000, results: Path | None = None
) -> Result:
    """Measure models that know nothing of recsys, as they are, through torch.compile, and optimised.

    Args:
        batch: Batch sizes.
        seconds: About how long is measured for each batch size.
        cap: Cut tables to at most so many rows.
        results: A markdown file whose section of this benchmark and machine is written anew.
    """
    from recsys.bench.optimize import measure
    from recsys.bench.report import Section

    section = None if results is None else Section("optimize", results)
    found = measure(seconds, batch, cap)
    _show(found)
    if section is not None:
        given = {"batch": batch, "seconds": seconds, "cap": cap, "results": results}
        section.write(found, command_line(optimize, "recsys bench optimize", given))
    return found


def request(seconds: float = 5.0, bits: int = 18, results: Path | None = None) -> Result:
    """Measure raw requests, encoding included: one row as a dict, and 500 candidates of one user.

    Args:
        seconds: How long is measured for each kind.
        bits: Each of the 26 tables has 2^bits rows.
        results: A markdown file whose section of this benchmark and machine is written anew.
    """
    from recsys.bench.report import Section
    from recsys.bench.request import measure

    section = None if results is None else Section("request", results)
    found = measure(seconds, bits)
    _show(found)
    if section is not None:
        given = {"seconds": seconds, "bits": bits, "results": results}
        section.write(found, command_line(request, "recsys bench request", given))
    return found


def score(
    rows: int = 1_000_000, rounds: int = 1, bits: int = 20, only: tuple[str, ...] = (), results: Path | None = None
) -> Result:
    """Measure how many rows a second are scored from Parquet to Parquet on all cores, beside pandas and FuxiCTR.

    Args:
        rows: Rows of the file, which are Criteo-shaped.
        rounds: Runs of each job, interleaved; medians are printed.
        bits: Each of the 26 tables has 2^bits rows.
        only: The jobs to run, such as `int8` or `pandas`; by default all.
        results: A markdown file whose section of this benchmark and machine is written anew.
    """
    from recsys.bench.report import Section
    from recsys.bench.score import measure

    section = None if results is None else Section("score", results)
    found = measure(rows, rounds, bits, only)
    _show(found)
    if section is not None:
        given = {"rows": rows, "rounds": rounds, "bits": bits, "only": only, "results": results}
        section.write(found, command_line(score, "recsys bench score", given))
    return found


def serve(
    run: Path | None = None,
    host: str = "127.0.0.1",
    backend: Literal["auto"] | Backend = "auto",
    requests: int = 2000,
    clients: int = 2,
    rate: float | None = None,
    seconds: float = 20.0,
    results: Path | None = None,
) -> Result:
    """Measure requests to `recsys serve` on this machine, closed and open loop, beside the session's own time.

    Args:
        run: Folder of a trained model; by default a small one is trained on synthetic clicks.
        host: Where the server listens: an address of this machine alone.
        backend: What runs the network, in the server and beside it.
        requests: Of each measurement.
        clients: Of the second closed loop.
        rate: Requests a second of the open loop; by default half of what one client got in the closed one.
        seconds: Most that a measurement takes.
        results: A markdown file whose section of this benchmark and machine is written anew.
    """
    from recsys.bench.report import Section
    from recsys.bench.serve import measure

    section = None if results is None else Section("serve", results)
    found = measure(run, host, backend, requests, clients, rate, seconds)
    _show(found)
    if section is not None:
        given = {"run": run, "host": host, "backend": backend, "requests": requests, "clients": clients, "rate": rate}
        words = given | {"seconds": seconds, "results": results}
        section.write(found, command_line(serve, "recsys bench serve", words))
    return found


def _show(found: Result) -> None:
    from recsys.bench.report_gpu import GPU_REPORTS
    from recsys.bench.report_sessions import SESSION_REPORTS

    bench = found["bench"]
    facts, tables = (GPU_REPORTS[bench] if bench in GPU_REPORTS else SESSION_REPORTS[bench])(found)
    screen = console()
    screen.print(card_table(found["machine"], facts))
    for cells in tables:
        screen.print(cells_table(cells), "", sep="\n")
    for name, how in found.get("absent", {}).items():
        screen.print(f"absent: {name}; {how}", markup=False)
