"""A tiny run of the training benchmark: every peer learns, and the account is whole."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from recsys.bench import train, train_peers
from recsys.bench.criteo import CATEGORIES, NUMBERS
from recsys.bench.train import measure
from recsys.cli import app
from recsys.errors import ConfigError

ROWS = 300
needs_fuxictr = pytest.mark.skipif(not importlib.util.find_spec("fuxictr"), reason="needs the extra `parity`")
NAMES = {
    "fuxictr": {"fuxictr", "fuxictr-sgd", "fuxictr-sparse"},
    "torchrec": {"torchrec", "torchrec-rowwise", "torchrec-sgd"},
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "WORKLOADS", {"bits6": 6, "bits5": 5})
    monkeypatch.setattr(train, "BATCH", 128)


def test_everybody_is_measured_and_the_ratios_are_to_the_best() -> None:
    before = torch.get_num_threads(), torch.get_rng_state()
    found = measure(ROWS, 2, ["bits6"])
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    (row,) = found["rows"]
    assert (found["bench"], row["workload"], row["rows"], row["table_rows"]) == ("train", "bits6", ROWS, 26 * 64)
    for name, names in NAMES.items():
        there = {peer["name"] for peer in row["peers"]} & names
        assert there == (set() if name in found["absent"] else names)
    for one in (row["ours"], row["bound"], *row["also"], *row["peers"]):
        assert 0 < one["slowest"] <= one["rows_per_second"] <= one["fastest"]
        assert one["threads"] in (1, before[0])
    for kind in ("stock", "tuned"):
        times = [peer["us_per_row"] for peer in row["peers"] if peer["class"] == kind]
        assert row[f"ratio_{kind}"] == (
            pytest.approx(min(times) / row["ours"]["us_per_row"], abs=0.001) if times else None
        )


def test_without_peers_the_ratios_are_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_peers, "_has", lambda module: False)
    assert app.main(["bench", "train", "--rows", "200", "--rounds", "1"]) == 0
    *people, last = capsys.readouterr().out.splitlines()
    found, text = json.loads(last), "\n".join(people)
    assert [row["workload"] for row in found["rows"]] == ["bits6", "bits5"]
    assert all(row["ratio_stock"] is row["ratio_tuned"] is row["ratio_fuxictr"] is None for row in found["rows"])
    assert set(found["absent"]) == set(NAMES)
    assert all(f"absent: {name}; it runs after `{command}`" in text for name, command in found["absent"].items())
    assert f"{found['rows'][0]['ours']['rows_per_second']:,}" in text


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(ConfigError, match="no such workload as `bit6`: did you mean `bits6`"):
        measure(ROWS, 1, ["bit6"])
    for rows, rounds in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="at least 1 row and 1 round"):
            measure(rows, rounds)


# --- do the peers do the job?


@needs_fuxictr
@pytest.mark.parametrize(("dim", "width"), [(16, 39 * 16), (1, 13 + 26 * 16)])
def test_fuxictr_s_network_has_the_width_that_is_told(dim: int, width: int) -> None:
    model = train_peers.dcnv2(dict.fromkeys(CATEGORIES, 16), dim, "adam")
    assert [layer.in_features for layer in model.cross.cross_layers] == [width] * 3


def rows(bits: int) -> train_peers.Rows:
    """100 rows whose labels are the first number's sign."""
    numbers = torch.randn(100, len(NUMBERS), generator=torch.Generator().manual_seed(0))
    ids = torch.randint(1 << bits, (len(CATEGORIES), 100), generator=torch.Generator().manual_seed(1))
    return train_peers.Rows(numbers, ids, (numbers[:, 0] > 0).float(), bits)


@needs_fuxictr
def test_sparse_fuxictr_moves_the_rows_that_were_read_and_the_network() -> None:
    model = train_peers._sparse(train_peers.dcnv2(dict.fromkeys(CATEGORIES, 16), 1, "adam"))
    given = rows(4)
    columns = dict(zip((*NUMBERS, *CATEGORIES), (*given.numbers.T, *(given.ids % 8)), strict=True))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    train_peers._fuxictr_epoch(model, columns | {"label": given.labels}, [torch.arange(100)])
    for name, weight in model.state_dict().items():
        moved = weight != before[name]
        assert moved.any(), name
        if weight.shape[:1] == (16,):
            assert not moved[8:].any(), name


@pytest.mark.parametrize("kind", list(NAMES))
def test_peers_learn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    item = torch.Tensor.item

    def spied(self: torch.Tensor) -> float:
        value = item(self)
        if self.requires_grad:  # a loss, and no counter of FBGEMM's
            losses.append(value)
        return value

    monkeypatch.setattr(torch.Tensor, "item", spied)
    peers = getattr(train_peers, kind)(rows(4))
    if not peers:
        pytest.skip(f"{kind} is not installed")
    assert {peer.name for peer in peers} == NAMES[kind]
    for peer in peers:
        losses.clear()
        peer.learn([torch.arange(100)] * 60)
        assert len(losses) == 60
        assert losses[-1] < losses[0]
