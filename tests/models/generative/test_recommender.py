"""Recommenders: lists with allow and deny, what is left out and counted, and folders that load whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import recsys
from recsys import files
from recsys.data.catalogue import Catalogue
from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.models.generative.recommender import Recommender, save_recommender
from recsys.models.generative.registry import SEQUENCE_MODELS, build

ITEMS = 6


@pytest.fixture(params=sorted(SEQUENCE_MODELS))
def recommender(request: pytest.FixtureRequest) -> Recommender:
    """Of items a … f, untrained; it reads four events."""
    torch.manual_seed(0)
    config = SEQUENCE_MODELS[request.param][0](context=4, width=8, name=request.param)  # type: ignore[call-arg]
    names = pa.array(list("abcdef"), pa.large_string())
    popularity = torch.tensor([0, 1, 2, 9, 2, 0, 5])
    model = build(config, ITEMS).eval()  # type: ignore[arg-type]
    return Recommender(config, model, Catalogue(names), popularity, {}, {})  # type: ignore[arg-type]


def test_the_best_items_come_first(recommender: Recommender) -> None:
    found = recommender.recommend([["a", "b"], ["c"]], k=6)
    for row, history in enumerate(([1, 2], [3])):
        scores = recommender.model.next_scores(torch.tensor([history]), torch.tensor([len(history)]))[0, 1:]
        order = (-scores).argsort(stable=True) + 1
        assert found.items[row].tolist() == order.tolist()
        np.testing.assert_allclose(found.scores[row], scores[order - 1].detach().numpy(), rtol=1e-4, atol=1e-6)
    assert found.names()[0] == ["abcdef"[i - 1] for i in found.items[0]]


def test_a_batch_is_its_histories_one_by_one(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = [["a"], [], ["f", "e", "d", "c", "b", "a"], ["b", "nobody", "c"]]
    whole = recommender.recommend(histories, k=3)
    single = [recommender.recommend([history], k=3) for history in histories]
    assert whole.items.tolist() == [one.items[0].tolist() for one in single]
    monkeypatch.setattr("recsys.models.generative.recommender._BATCH", 2)
    assert np.array_equal(recommender.recommend(histories, k=3).items, whole.items)


def test_an_empty_history_is_given_what_is_popular(recommender: Recommender) -> None:
    found = recommender.recommend([[], ["unknown"]], k=4)
    assert found.names() == [["c", "f", "b", "d"]] * 2  # b before d: as popular, and of a lower number
    assert found.unknown == 1


def test_what_the_model_does_not_read_is_counted(recommender: Recommender) -> None:
    found = recommender.recommend([["a", "b", "c", "d", "e", "f"], ["x", "a"]], k=2)
    assert (found.cut, found.unknown) == (2, 1)
    assert np.array_equal(found.items[0], recommender.recommend([["c", "d", "e", "f"]], k=2).items[0])


def test_lists_keep_to_what_is_allowed_and_not_denied(recommender: Recommender) -> None:
    found = recommender.recommend(
        [["a"]] * 3, k=4, allow=[["b", "c"], list("abcdef"), []], deny=[["b"], ["c", "d"], []]
    )
    assert found.names()[0] == ["c"]
    assert set(found.names()[1]) <= set("abef")
    assert found.names()[2] == []
    assert found.scores[2].tolist() == [-np.inf] * 4
    assert "a" not in recommender.recommend([["a"]], k=6, seen="left out").names()[0]


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"k": 0}, ConfigError, "expected lists of 1 to 6 items, got 0"),
        ({"k": 7}, ConfigError, "expected lists of 1 to 6 items, got 7"),
        ({"deny": [["a"], ["b"]]}, DataError, "expected 1 deny lists, one a history, got 2"),
        ({"seen": "gone"}, ConfigError, "expected seen as one of kept, left out, got 'gone'"),
    ],
)
def test_arguments_that_cannot_be(
    recommender: Recommender, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        recommender.recommend([["a"]], **options)


@pytest.mark.parametrize("histories", ["ab", ["ab"], [["a", 1.5]], [3]])
def test_histories_are_lists_of_names(recommender: Recommender, histories: Any) -> None:
    with pytest.raises(DataError, match="expected"):
        recommender.recommend(histories)


def test_scores_that_are_no_numbers_are_refused(recommender: Recommender) -> None:
    with torch.no_grad():
        recommender.model.items.weight[3] = torch.nan
    with pytest.raises(DataError, match="scores are NaN"):
        recommender.recommend([["a"]], k=3)


def test_a_folder_gives_the_same_recommender(recommender: Recommender, tmp_path: Path) -> None:
    recommender.metrics = {"valid": {"protocol": {"split": "leave-one-out", "seen": "kept"}, "questions": 3,
                                     "metrics": {"hr@10": {"value": 0.5, "low": 0.25, "high": 0.75}}}}  # fmt: skip
    save_recommender(recommender, tmp_path / "run")
    loaded = recsys.load(tmp_path / "run")
    assert isinstance(loaded, recsys.Recommender)
    ours, theirs = (one.recommend([["a", "b"], []], k=3) for one in (recommender, loaded))
    assert np.array_equal(ours.scores, theirs.scores)
    assert (loaded.config, loaded.metrics) == (recommender.config, recommender.metrics)
    assert "| hr@10 | 0.5000 | 0.2500 to 0.7500 |" in (tmp_path / "run" / "README.md").read_text()
    with pytest.raises(CheckpointError, match="holds a checkpoint"):
        save_recommender(recommender, tmp_path / "run")


@pytest.mark.parametrize("name", ["model.safetensors", "catalogue.parquet", "metrics.json", "config.json"])
def test_a_folder_that_was_altered_does_not_load(recommender: Recommender, tmp_path: Path, name: str) -> None:
    save_recommender(recommender, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError):
        recsys.load(tmp_path / "run")


def test_a_catalogue_of_another_length_is_refused(recommender: Recommender, tmp_path: Path) -> None:
    recommender.catalogue = Catalogue(pa.array(list("abcde"), pa.large_string()))
    save_recommender(recommender, tmp_path / "run")
    with pytest.raises(CheckpointError, match="weights do not fit the catalogue of 5 items"):
        recsys.load(tmp_path / "run")


def test_a_ranker_is_no_recommender(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "family": "sequence"}))
    with pytest.raises(CheckpointError, match="not the seal of a recsys recommender"):
        recsys.load(tmp_path)


class Killed(Exception):
    """A process that ends in the middle."""


def test_a_save_that_is_killed_leaves_nothing_that_loads_wrongly(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill the save at its first, second, … file: the folder never loads, until the save that ran through."""
    run, real = tmp_path / "run", files.replacing
    for deadline in range(10):
        calls = iter(range(100))

        def dying(path: Path, calls: Any = calls, deadline: int = deadline) -> Any:
            if next(calls) == deadline:
                raise Killed
            return real(path)

        for module in ("files", "models.weights", "data.catalogue"):
            monkeypatch.setattr(f"recsys.{module}.replacing", dying)
        try:
            save_recommender(recommender, run, overwrite=True)
        except Killed:
            with pytest.raises(CheckpointError):
                recsys.load(run)
        else:
            assert deadline == 5  # weights, catalogue, metrics, card, config
            return
        finally:
            monkeypatch.undo()
    pytest.fail("the save never ran through")


def test_a_recommender_where_a_ranker_is_needed_is_told_so(recommender: Recommender, tmp_path: Path) -> None:
    save_recommender(recommender, tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds a model that says what comes next, and a ranker is needed here"):
        recsys.session(tmp_path / "run")
