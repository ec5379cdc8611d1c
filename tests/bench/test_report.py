"""What benchmarks write for people: tables that say what the JSON says, in a section of a file that is theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from recsys.bench import report
from recsys.bench.lookup_peers import DTYPES
from recsys.bench.report import Bench, Section, distributions_cells, lookup_cells, plans_cells, strategies_cells
from recsys.bench.report_gpu import GPU_REPORTS
from recsys.bench.report_sessions import SESSION_REPORTS
from recsys.errors import DataError

MACHINE = {"cpu": "AMD EPYC", "cores": 8, "huge_pages": "madvise", "system": "Linux x86_64", "python": "3.11.7",
           "recsys": "0.1.0", "gpu": None, "torch": "2.13.0", "torchrec": None}  # fmt: skip
BENCHES: tuple[Bench, ...] = get_args(Bench)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "read_machine", lambda: MACHINE)
    monkeypatch.setattr(report, "gpu_name", lambda: None)
    monkeypatch.setattr(report, "made_with", lambda: "recsys 0.1.0 at commit abc")
    monkeypatch.setattr(report, "_today", lambda: "2026-01-02")


def peer(name: str, kind: str, us: float) -> dict[str, Any]:
    return {"name": name, "class": kind, "dtype": "fp32", "us": us}


def lookup_row(threads: int, dtype: str, **more: Any) -> dict[str, Any]:
    about = {"workload": "w", "ids": "zipf", "batch": 2048, "threads": threads, "dtype": dtype, "share_of_bound": 0.5}
    peers = [peer("slow", "stock", 4000.0), peer("quick", "stock", 2000.0), peer("best", "tuned", 1500.0)]
    ratios = {"ratio_stock": 2.0, "ratio_tuned": 1.5, "ratio_stock_dtype": None, "ratio_tuned_dtype": None}
    return {**about, "ours": {"us": 1000.0, "p99_us": 1234.5}, "peers": peers, **ratios, **more}


def lookup_found() -> dict[str, Any]:
    rows = [
        lookup_row(1, "fp32", ratio_tuned_dtype=1.5),
        lookup_row(1, "fp16", ratio_tuned_dtype=3.25),
        lookup_row(1, "int8"),
        lookup_row(2, "fp32", peers=[], ratio_one_thread=1.75),
        *(lookup_row(1, dtype, ids="equal", batch=1, peers=[], share_of_bound=None) for dtype in DTYPES),
    ]
    spread = {"slowest": {"ids": "zipf", "us": 1000.0}, "fastest": {"ids": "equal", "us": 400.0}, "ratio": 2.5}
    spreads = [{"workload": "w", "batch": 2048, "dtype": dtype, **spread} for dtype in ("fp32", "fp16")]
    workloads = {"w": {"name": "w", "bytes": 1, "about": "A workload."}}
    return {"bench": "lookup", "machine": MACHINE, "workloads": workloads, "rows": rows, "distributions": spreads}


def dataflow_found() -> dict[str, Any]:
    row = {"workload": "a|b", "ids": "as it is", "batch": 512, "cores": 4, "predicted_us": 10.0, "us": 11.0,
           "bound_us": 9.0, "symmetric_us": 22.0, "symmetric_cores": 2, "one_core_us": 30.0, "ratio_symmetric": 2.0,
           "fbgemm_us": 44.0, "fbgemm_threads": 4, "pieces": [{"core": 0}, {"core": 2}, {"core": 2}]}  # fmt: skip
    rows = [row, row | {"fbgemm_us": None, "fbgemm_threads": None}]
    errors = {"median_error": 0.071, "worst_error": 0.4, "median_plan_error": 0.05, "worst_plan_error": 0.2}
    counts = {"pieces": 9, "pieces_counted": 4}
    return {"bench": "dataflow", "machine": MACHINE, "platform": "f00", **errors, **counts, "rows": rows}


def strategies_found() -> dict[str, Any]:
    row = {"workload": "w", "strategy": "vector", "row_bytes": 4, "batch": 2048, "us": 1234.5, "gather_us": 2469.0,
           "ns_an_id": 0.5, "gather_ns_an_id": 1.0, "ratio": 2.0}  # fmt: skip
    return {"bench": "strategies", "machine": MACHINE, "rows": [row]}


def session_found() -> dict[str, Any]:
    ours = {"us": 88.5, "p99_us": 101.0, "rows_per_second": 11_300, "what": "aoti", "lookup_us": 3.0,
            "network_us": 78.0, "glue_us": 7.5}  # fmt: skip
    row = {"workload": "w", "batch": 4096, "storage": "huge", "dtype": "fp32", "ours": ours, "share_of_bound": 0.876,
           "peers": [peer("torchrec", "stock", 500.0)], "ratios": {"torchrec": 5.65}}  # fmt: skip
    rows = [row, row | {"dtype": "int8", "share_of_bound": None}, row | {"workload": "v"}]
    about = {"workload": {"bytes": 1000}, "peak_gflops": {"fp32": 244.3, "bf16": 510.0}}
    return {"bench": "session", "machine": MACHINE, **about, "rows": rows}


def session_gpu_found() -> dict[str, Any]:
    ours = {"us": 55.5, "p99_us": 61.0, "rows_per_second": 18_000, "what": "inductor", "lookup_us": 14.0,
            "network_us": 30.0}  # fmt: skip
    row = {"workload": "w", "batch": 1, "dtype": "fp32", "ours": ours, "share_of_bound": 0.3,
           "peers": [peer("torch-loop", "stock", 555.0)], "ratios": {"torch-loop": 10.0}}  # fmt: skip
    more = {"batch": 2048, "peers": [peer("fbgemm-graph", "tuned", 60.0)], "ratios": {"fbgemm-graph": 1.08}}
    ceilings = {"fp32_gflops": 51_000.0, "bf16_gflops": 700_000.0, "link_gbs": 55.2, "floor_us": 11.5}
    about = {"device": "NVIDIA H100", "workload": {"bytes": 1000}, "ceilings": ceilings}
    return {"bench": "session-gpu", "machine": MACHINE, **about, "rows": [row, row | more]}


def optimize_found() -> dict[str, Any]:
    row = {"model": "hand", "batch": 512, "ours": {"us": 4000.0, "backend": "aoti"},
           "peers": [{"name": "eager", "ratio": 2.34}, {"name": "torch.compile", "ratio": 2.0}]}  # fmt: skip
    rows = [row, row | {"model": "dlrm", "peers": row["peers"][:1]}]  # type: ignore[index]
    return {"bench": "optimize", "machine": MACHINE, "cap": 400_000, "rows": rows}


def request_found() -> dict[str, Any]:
    rows = [{"request": "one row", "rows": 1, "p50_us": 228.4, "p99_us": 1300.0}]
    return {"bench": "request", "machine": MACHINE, "backends": {"1": "eager", "512": "aoti"}, "rows": rows}


def score_found() -> dict[str, Any]:
    rows = [{"name": "bf16", "class": "ours", "rows_per_second": 207_305, "most_memory_bytes": 197_400_000,
             "times": {"fuxictr": 5.3, "pandas": 9.4}},
            {"name": "pandas", "class": "stock", "rows_per_second": 22_000, "most_memory_bytes": 1_017_724_928,
             "times": {}}]  # fmt: skip
    about = {"file_rows": 5_000_000}
    return {"bench": "score", "machine": MACHINE, **about, "rows": rows}


def serve_found() -> dict[str, Any]:
    own = {"session_p50_us": 200.0, "session_p99_us": 250.0, "overhead_p50_us": 320.0}
    row = {"case": "rank", "rows": 100, "loop": "closed", "clients": 1, "p50_us": 520.0, "p99_us": 900.0,
           "per_second": 1800.0}  # fmt: skip
    rows = [row | own, row | {"loop": "open", "rate": 900.0}]
    return {"bench": "serve", "machine": MACHINE, "model": "synthetic", "backends": {"1": "eager"}, "rows": rows}


def lookup_gpu_found() -> dict[str, Any]:
    peers = [{"name": "fbgemm-nbit-fp16", "class": kind, "us": us} for kind, us in (("stock", 30.0), ("tuned", 20.0))]
    row = {"workload": "w", "ids": "zipf", "batch": 4096, "dtype": "fp16", "ours": {"us": 10.0, "unchecked_us": 9.0},
           "peers": peers, "ratio_stock": 3.0, "ratio_tuned": 2.22, "ratio_fp16": None, "counted_bytes": 25_000_000,
           "tbs": 2.5, "share_of_bound": 0.83}  # fmt: skip
    alone = row | {"dtype": "int8", "peers": [], "ratio_stock": None, "ratio_tuned": None, "ratio_fp16": 1.25}
    spread = {"slowest": {"ids": "zipf", "us": 10.0}, "fastest": {"ids": "equal", "us": 8.0}, "ratio": 1.25}
    spreads = [{"workload": "w", "batch": 4096, "dtype": "fp16", **spread}]
    ceilings = {"copy_tbs": 3.031, "graph_floor_us": 4.56, "cache_bytes": 50_000_000}
    workloads = {"w": {"name": "w", "bytes": 4_000_000_000, "about": "A workload."}}
    return {"bench": "lookup-gpu", "machine": MACHINE, "workloads": workloads, "ceilings": ceilings,
            "rows": [row, alone], "distributions": spreads}  # fmt: skip


def gpu_dataflow_found() -> dict[str, Any]:
    row = {"workload": "w", "ids": "zipf", "dim": 64, "batch": 2048, "predicted_us": 11.0, "us": 10.0, "tbs": 2.5,
           "miss": 0.25, "near_us": 6.0, "far_us": 3.0, "chain_us": 1.0}  # fmt: skip
    fit = {"median_error": 0.05, "p90_error": 0.1, "worst_error": 0.2, "cache": 20_000_000, "power": 2.5}
    about = {"gpu": "H100", "platform": "abc", "dtype": "fp16", **fit}
    return {"bench": "gpu-dataflow", "machine": MACHINE, **about, "rows": [row]}


def gpu_larger_found() -> dict[str, Any]:
    times = {"p50_us": 300.0, "p99_us": 330.0}
    row = {"budget": 0.1, "bytes": 8_000_000_000, "host_share": 0.05, "best_host_share": 0.04, "predicted_us": 310.0,
           "bound_us": 200.0, "read_bound_us": 250.0, "ours": times, "random": times,
           "link": {"p50_us": 400.0, "p99_us": 440.0}, "places": {"device": 20, "shared": 2, "cpu": 1}}  # fmt: skip
    about = {"workload": "w", "table_bytes": 104_000_000_000, "free_bytes": 78_000_000_000, "batch": 2048, "calls": 200}
    more = {"batches": 40, "counted_examples": 1000, "host": times, "cpu": None, "absent": {"lru": "not here"}}
    return {"bench": "gpu-larger", "machine": MACHINE, **about, **more, "rows": [row]}


FOUND = {
    "lookup": lookup_found(),
    "lookup-gpu": lookup_gpu_found(),
    "dataflow": dataflow_found(),
    "strategies": strategies_found(),
    "session": session_found(),
    "session-gpu": session_gpu_found(),
    "gpu-dataflow": gpu_dataflow_found(),
    "gpu-larger": gpu_larger_found(),
    "optimize": optimize_found(),
    "request": request_found(),
    "score": score_found(),
    "serve": serve_found(),
}


def test_look_ups_are_a_row_for_each_way_that_ids_fall_and_batch() -> None:
    (cells,) = lookup_cells(lookup_found())
    assert cells.title == "w"
    assert [len(row) for row in cells.rows] == [len(cells.header)] * 2
    assert cells.rows[0] == ("zipf", "2,048", "1,000.0", "1,234.5", "quick 2,000.0: 2.00 ×", "best 1,500.0: 1.50 ×",
                             "1.50 ×", "3.25 ×", "–", "1.75 ×", "50%")  # fmt: skip
    assert cells.rows[1] == ("equal", "1", "1,000.0", "1,234.5", *["–"] * 7)


def test_a_model_larger_than_the_gpu_has_both_bounds() -> None:
    facts, (cells,) = GPU_REPORTS["gpu-larger"](gpu_larger_found())
    assert facts["the CPU alone"] == "–"
    assert [len(row) for row in cells.rows] == [len(cells.header)]
    assert cells.rows[0] == ("10%", "8.0", "5.00%", "4.00%", "3", "310.0", "300.0", "330.0", "400.0", "440.0", "300.0",
                             "330.0", "200.0", "1.50", "250.0", "1.20")  # fmt: skip


def test_launches_are_predicted_beside_measured() -> None:
    _, (cells,) = GPU_REPORTS["gpu-dataflow"](gpu_dataflow_found())
    assert [len(row) for row in cells.rows] == [len(cells.header)]
    assert cells.rows[0][4:7] == ("11.0", "10.0", "+10%")


def test_a_picture_that_is_there_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "R.md"
    section = Section("gpu-larger", file)
    section.write(FOUND["gpu-larger"], "recsys bench it")
    assert "![" not in file.read_text()
    section.picture.parent.mkdir()
    section.picture.write_bytes(b"")
    section.write(FOUND["gpu-larger"], "recsys bench it")
    assert f"](results/{section.picture.name})" in file.read_text()


def test_distributions_are_told_of_fp32() -> None:
    cells = distributions_cells(lookup_found())
    assert cells.rows == (("w", "zipf", "equal", "2,048", "1,000.0", "400.0", "2.50 ×"),)
    assert len(cells.header) == 7


def test_plans_are_a_row_each() -> None:
    cells = plans_cells(dataflow_found())
    shared = ("a|b", "as it is", "512", "2", "10.0", "11.0", "9.0", "22.0 (2)", "30.0")
    assert cells.rows == ((*shared, "44.0 (4)", "2.00 ×"), (*shared, "–", "2.00 ×"))
    assert len(cells.header) == len(cells.rows[0])


def test_strategies_are_a_row_each() -> None:
    cells = strategies_cells(strategies_found())
    assert cells.rows == (("w", "vector", "4", "2,048", "1,234.5", "2,469.0", "0.50", "1.00", "2.00 ×"),)
    assert len(cells.header) == len(cells.rows[0])


def rows_of(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of all tables, each row as wide as its header."""
    tables = SESSION_REPORTS[found["bench"]](found)[1]
    assert all(len(row) == len(cells.header) for cells in tables for row in cells.rows)
    return [row for cells in tables for row in cells.rows]


def test_sessions_are_a_table_for_each_model_and_a_row_for_each_batch_and_kind() -> None:
    facts, tables = SESSION_REPORTS["session"](session_found())
    assert [cells.title.partition(":")[0] for cells in tables] == ["w", "v"]
    assert tables[0].header[-2:] == ("of the bound", "torchrec ÷ ours")
    first, second, _ = rows_of(session_found())
    assert first == ("4,096", "huge", "fp32", "aoti", "88.5", "101.0", "11,300", "3.0", "78.0", "7.5", "88%", "5.65")
    assert (second[2], second[-2]) == ("int8", "–")
    assert "244 as fp32, 510 as bf16" in facts["peak"]


def test_sessions_on_a_gpu_are_a_row_for_each_batch_and_precision() -> None:
    facts, (cells,) = GPU_REPORTS["session-gpu"](session_gpu_found())
    assert cells.header[-2:] == ("torch-loop ÷ ours", "fbgemm-graph ÷ ours")
    assert cells.rows[0] == ("1", "fp32", "inductor", "55.5", "61.0", "18,000", "14.0", "30.0", "30%", "10.00", "–")
    assert cells.rows[1][-2:] == ("–", "1.08")
    assert "51 as fp32, 700 as bf16; link 55 GB/s" in facts["ceilings"]


def test_a_peer_that_failed_on_one_model_is_named_so() -> None:
    assert rows_of(optimize_found()) == [
        ("hand", "aoti", "512", "4,000.0", "2.34", "2.00"),
        ("dlrm", "aoti", "512", "4,000.0", "2.34", "failed"),
    ]


def test_requests_scoring_and_serving_are_a_row_each() -> None:
    assert rows_of(request_found()) == [("one row", "1", "228", "1,300")]
    assert rows_of(score_found()) == [
        ("bf16", "ours", "207,305", "197", "5.30 ×", "9.40 ×"),
        ("pandas", "stock", "22,000", "1,018", "", ""),
    ]
    assert rows_of(serve_found()) == [
        ("rank, rows: 100", "closed, clients: 1", "520", "900", "1,800", "200", "250", "320"),
        ("rank, rows: 100", "open, 900/s due", "520", "900", "1,800", "", "", ""),
    ]


def test_look_ups_on_a_gpu_are_a_row_for_each_way_that_ids_fall_batch_and_dtype() -> None:
    facts, (cells, spread) = GPU_REPORTS["lookup-gpu"](lookup_gpu_found())
    assert all(len(row) == len(one.header) for one in (cells, spread) for row in one.rows)
    assert cells.rows == (
        ("zipf", "4,096", "fp16", "10.0", "9.0", "30.0", "20.0", "3.00 ×", "2.22 ×", "–", "25.0", "2.50", "83%"),
        ("zipf", "4,096", "int8", "10.0", "9.0", "–", "–", "–", "–", "1.25 ×", "25.0", "2.50", "83%"),
    )
    assert spread.rows == (("w", "fp16", "zipf", "equal", "4,096", "10.0", "8.0", "1.25 ×"),)
    assert "3.03 TB/s" in facts["ceilings"]
    assert facts["w, tables"] == "2.00 GB as fp16. A workload."
    assert len(GPU_REPORTS["lookup-gpu"](lookup_gpu_found() | {"distributions": []})[1]) == 1


def test_what_a_gpu_did_is_in_a_section_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = "NVIDIA H100 80GB HBM3"
    monkeypatch.setattr(report, "gpu_name", lambda: gpu)
    benches: tuple[Bench, ...] = ("lookup-gpu", "lookup")
    for bench in benches:
        found = FOUND[bench] | {"machine": MACHINE | {"gpu": gpu}}
        Section(bench, tmp_path / "R.md").write(found, "recsys bench it")
    text = (tmp_path / "R.md").read_text()
    assert (
        "<!-- bench: lookup-gpu nvidia-h100-80gb-hbm3 -->\n## Look-ups of whole workloads on a GPU: NVIDIA H100" in text
    )
    assert "<!-- bench: lookup amd-epyc-8 -->\n## Look-ups of whole workloads: AMD EPYC, 8 cores" in text
    assert text.count(", GPU: NVIDIA H100 80GB HBM3\n") == 2


@pytest.mark.parametrize("bench", BENCHES)
def test_only_the_section_of_this_machine_and_benchmark_changes(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "R.md"
    begin, end = f"<!-- bench: {bench} amd-epyc-8 -->", f"<!-- /bench: {bench} amd-epyc-8 -->"
    before = f"# Mine\n\n<!-- bench: {bench} amd-epyc-80 -->\nkept\n<!-- /bench: {bench} amd-epyc-80 -->\n"
    file.write_text(f"{before}{begin}\nold\n{end}\nWhat I say of it.")
    Section(bench, file).write(FOUND[bench], "recsys bench it")
    text = file.read_text()
    assert text.startswith(f"{before}{begin}\n## ")
    assert text.endswith(f"|\n{end}\nWhat I say of it." if bench != "dataflow" else f"{end}\nWhat I say of it.")
    assert "old" not in text
    assert "```bash\nrecsys bench it\n```\n" in text
    assert "- machine: AMD EPYC, 8 cores, Linux x86_64, huge pages: madvise\n" in text
    assert "- versions: python 3.11.7, torchrec absent\n" in text
    assert "- written: 2026-01-02, by recsys 0.1.0 at commit abc\n" in text


def test_both_sections_are_added_to_a_new_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "R.md"
    for bench in BENCHES:
        Section(bench, file).write(FOUND[bench], "recsys bench it")
    text = file.read_text()
    assert text.index("<!-- bench: lookup amd-epyc-8 -->") == 0
    assert text.index("<!-- /bench: lookup amd-epyc-8 -->") < text.index("<!-- bench: dataflow amd-epyc-8 -->")
    assert "### w\n\nA workload.\n\n| ids |" in text
    assert "| a\\|b | as it is |" in text
    assert "4 of 9 pieces, those of a microsecond or more: within 7% (median), at worst 40%" in text
    assert "- platform: f00\n" in text


def test_a_table_of_distributions_is_there_only_if_there_were_two(tmp_path: Path) -> None:
    Section("lookup", tmp_path / "R.md").write(lookup_found() | {"distributions": []}, "recsys bench it")
    assert "how much it matters" not in (tmp_path / "R.md").read_text()


def test_a_broken_marker_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "R.md").write_text("<!-- bench: lookup amd-epyc-8 -->\n")
    with pytest.raises(DataError, match="`<!-- /bench: lookup amd-epyc-8 -->` once after it; mend the markers by hand"):
        Section("lookup", tmp_path / "R.md")


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("AMD EPYC 7B13", "amd-epyc-7b13-8"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "intel-xeon-platinum-8481c-8"),
        ("Odd --> name", "odd-name-8"),
    ],
)
def test_a_machine_is_named_by_its_processor_and_cores(cpu: str, name: str) -> None:
    assert report._name("lookup", {"cpu": cpu, "cores": 8, "gpu": "NVIDIA H100"}) == name
