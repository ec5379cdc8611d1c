"""One matrix over all models: a new model joins `VARIANTS` and is tested by everything here."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.encoder import IdInput, Inputs, Task
from recsys.errors import ConfigError, SchemaError
from recsys.models.base import ModelConfig, RankingModel
from recsys.models.ranking.deepfm import DeepFM
from recsys.models.registry import MODELS, build, config_class
from tests.helpers import CLICK, HISTORY, ITEM, RATING, TAGS, USER, batch_of, inputs, jagged, randomise, unpack

VARIANTS: dict[str, dict[str, Any]] = {
    "dcn2": {},
    "dcn2 deep relu": {"onlydense_layers": 2, "similarity_activation": "relu"},
    "dcn2 onlydense": {"similarities": False, "hidden": ()},
    "dcn2 similarities": {"onlydense_layers": 0, "hidden": ()},
    "dcnv2": {},
    "dcnv2 stacked": {"structure": "stacked"},
    "dcnv2 low rank": {"rank": 3},
    "dcnv2 crosses": {"hidden": ()},
    "deepfm": {},
    "deepfm pairs": {"hidden": ()},
    "din": {},
    "din attention": {"hidden": ()},
    "dlrm": {},
    "dlrm dots": {"hidden": (), "bottom": ()},
    "lr": {},
}
"""The first word is the model's name; with no hidden layers only its interaction can see two features at once."""
UNFIT = {("din", "no sequences"), ("din", "one id"), ("dlrm", "one id")}
TWO_HASHES = tuple(
    replace(one, name=one.name + mark, table=one.table + mark, shares=one.shares and one.shares + mark, part=p, parts=2)
    for one in (USER, ITEM, HISTORY)
    for p, mark in ((1, ""), (2, ":2"))
)
SCHEMAS = {
    "all": inputs(),
    "two hashes": inputs(ids=TWO_HASHES),
    "two hashes beside one": inputs(ids=(*TWO_HASHES, TAGS)),
    "no numbers": inputs(dense=0),
    "no sequences": inputs(ids=(USER, ITEM, TAGS)),
    "one id": inputs(dense=0, ids=(USER,)),
    "one id, one number": inputs(dense=1, ids=(USER,)),
}
every = pytest.mark.parametrize("variant", VARIANTS)


def config(variant: str, **changes: Any) -> ModelConfig:
    name = variant.split()[0]
    kind = config_class(name)
    small = {"embedding_dim": 4} | ({"hidden": (8,)} if "hidden" in kind.model_fields else {})
    return kind.parse({"name": name} | small | VARIANTS[variant] | changes, variant)


def model_of(
    variant: str, what: Inputs | None = None, noise: bool = True, seed: int = 0, **changes: Any
) -> RankingModel:
    torch.manual_seed(seed)
    model = build(config(variant, **changes), what or SCHEMAS["all"])  # type: ignore[arg-type]
    if noise:
        randomise(model, seed)
    return model


def test_the_matrix_holds_every_model() -> None:
    assert {variant.split()[0] for variant in VARIANTS} == set(MODELS)


@every
@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize("tasks", [(CLICK,), (CLICK, RATING)])
def test_logits_have_a_row_an_example_and_a_column_a_task(variant: str, size: int, tasks: tuple[Task, ...]) -> None:
    what = inputs(tasks=tasks)
    logits = model_of(variant, what)(batch_of(what, size))
    assert logits.shape == (size, len(tasks))
    assert logits.isfinite().all()


@every
@pytest.mark.parametrize("schema", SCHEMAS)
def test_schemas_of_every_shape(variant: str, schema: str) -> None:
    name, what = variant.split()[0], SCHEMAS[schema]
    if (name, schema.split(",")[0]) in UNFIT and not (name == "dlrm" and what.dense):
        with pytest.raises(SchemaError, match=f"^{name} needs "):
            model_of(variant, what)
    else:
        assert model_of(variant, what)(batch_of(what, 3)).shape == (3, 1)


@every
def test_numbers_alone_work_or_are_refused(variant: str) -> None:
    name, what = variant.split()[0], inputs(ids=())
    if name in ("deepfm", "dlrm", "din"):
        with pytest.raises(SchemaError, match=f"^{name} needs "):
            model_of(variant, what)
    else:
        assert model_of(variant, what)(batch_of(what, 3)).shape == (3, 1)


@every
@pytest.mark.parametrize("collision_weights", [False, True])
def test_every_parameter_has_a_finite_gradient(variant: str, collision_weights: bool) -> None:
    what = inputs(tasks=(CLICK, RATING))
    model = model_of(variant, what, collision_weights=collision_weights)
    model(batch_of(what, 40)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradient = parameter.grad.to_dense()
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


@every
def test_gradients_of_tables_are_sparse(variant: str) -> None:
    model = model_of(variant, collision_weights=True)
    model(batch_of(SCHEMAS["all"], 5)).sum().backward()
    assert all(p.grad is not None and p.grad.is_sparse for p in model.tables.parameters())


@every
def test_examples_do_not_see_each_other(variant: str) -> None:
    model, batch = model_of(variant), batch_of(SCHEMAS["all"], 5)
    alone = torch.cat([model(batch.slice(b, b + 1)) for b in range(5)])
    torch.testing.assert_close(model(batch), alone)
    assert len(set(alone.flatten().tolist())) == 5


@every
def test_every_feature_counts(variant: str) -> None:
    """A model that reads only some of its input would pass all else."""
    model, batch = model_of(variant), batch_of(SCHEMAS["all"], 40)
    before = model(batch)
    if variant != "dcn2 similarities":
        for n in range(batch.dense.shape[1]):
            dense = batch.dense.clone()
            dense[:, n] += 1.0
            assert not torch.allclose(model(replace(batch, dense=dense)), before)
    for f, feature in enumerate(SCHEMAS["all"].ids):
        parts = [batch.ids.feature(g) for g in range(len(SCHEMAS["all"].ids))]
        values, lengths, weights = parts[f]
        parts[f] = (values.clamp(0, feature.rows - 1) - feature.rows // 2).abs(), lengths, weights
        changed = replace(batch, ids=batch.ids.stack(batch.ids.features, parts))
        assert not torch.allclose(model(changed), before), feature.name


@every
def test_lists_are_averaged(variant: str) -> None:
    """To say every tag, and for models that pool it every step of the history, twice is to say it once."""
    model, batch = model_of(variant), batch_of(SCHEMAS["all"], 20)
    names = ("tags",) if variant.startswith("din") else ("tags", "history")
    bags = [
        [bag * 2 for bag in bags] if name in names else bags
        for name, bags in zip(batch.ids.features, unpack(batch.ids), strict=True)
    ]
    twice = replace(batch, ids=jagged(batch.ids.features, bags))
    torch.testing.assert_close(model(twice), model(batch))


@every
def test_predict_gives_probabilities_and_values(variant: str) -> None:
    plain = Task("plain", "regression")
    what = inputs(tasks=(CLICK, plain, RATING))
    model, batch = model_of(variant, what), batch_of(what, 50)
    logits, scores = model(batch), model.predict(batch)
    assert not scores.requires_grad
    assert bool(((scores[:, 0] >= 0) & (scores[:, 0] <= 1)).all())
    assert scores.dtype == torch.float64
    logits = logits.detach().double()
    torch.testing.assert_close(scores[:, 0], 1 / (1 + torch.exp(-logits[:, 0])), rtol=1e-6, atol=1e-6)
    assert torch.equal(scores[:, 1], logits[:, 1])
    torch.testing.assert_close(scores[:, 2], logits[:, 2] * RATING.scale + RATING.shift)


@every
def test_forward_is_tables_then_network(variant: str) -> None:
    model, batch = model_of(variant), batch_of(SCHEMAS["all"], 5)
    with torch.no_grad():
        x, sequences = model.tables(batch, out=torch.empty(5, model.layout.width))
        assert torch.equal(model.network(x, sequences), model(batch))


@every
def test_state_round_trips(variant: str) -> None:
    model, other = model_of(variant), model_of(variant, seed=1)
    batch = batch_of(SCHEMAS["all"], 5)
    assert not torch.allclose(model(batch), other(batch))
    assert set(model.state_dict()) >= {f"tables.{name}.weight" for name in model.tables.tables}
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(batch), other(batch))


@every
def test_one_seed_gives_one_model(variant: str) -> None:
    first, again, other = (model_of(variant, noise=False, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every
def test_folding_collision_weights_changes_no_logit(variant: str) -> None:
    model, batch = model_of(variant, collision_weights=True), batch_of(SCHEMAS["all"], 20)
    before = model(batch)
    model.tables.fold()
    torch.testing.assert_close(model(batch), before)
    plain = model_of(variant, collision_weights=False, seed=1)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(batch), before)


@pytest.mark.parametrize("variant", ["lr", "deepfm"])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_first_order_terms_are_added_and_nothing_else(variant: str, dim: int) -> None:
    what = inputs(tasks=(CLICK, RATING), ids=(USER, ITEM))
    model, batch = model_of(variant, what, embedding_dim=dim), batch_of(what, 20)
    before, step = model(batch), torch.randn(USER.rows, 2)
    with torch.no_grad():
        model.tables.table("user:first")[0].add_(step)
    users = batch.ids.feature(0)[0]
    users = torch.where((users < 0) | (users >= USER.rows), 0, users)
    torch.testing.assert_close(model(batch), before + step[users], rtol=1e-4, atol=1e-5)


def test_din_takes_any_name_for_a_history() -> None:
    for name in ("items", "user.items", "training"):
        what = inputs(ids=(ITEM, replace(HISTORY, name=name)))
        assert model_of("din", what)(batch_of(what, 2)).shape == (2, 1)


def test_din_refuses_a_history_that_shares_nothing() -> None:
    with pytest.raises(SchemaError, match=r"^din needs a sequence, and every sequence must share"):
        model_of("din", inputs(ids=(ITEM, HISTORY, replace(HISTORY, name="free", table="free", shares=None))))


@pytest.mark.parametrize("name", MODELS)
def test_defaults_stand_in_the_configuration_only(name: str) -> None:
    kind, model = MODELS[name]
    assert config_class(name) is kind
    assert kind().model_dump()["name"] == name
    parameters = inspect.signature(model).parameters
    assert list(parameters) == ["inputs", "config"]
    assert all(p.default is inspect.Parameter.empty for p in parameters.values())


@pytest.mark.parametrize("name", MODELS)
def test_the_defaults_build_a_model(name: str) -> None:
    what = inputs(tasks=(CLICK, RATING))
    assert build(config_class(name)(), what)(batch_of(what, 2)).shape == (2, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"lr"}))
def test_docstrings_cite_their_paper(name: str) -> None:
    assert "arXiv" in (MODELS[name][1].__doc__ or "")


@pytest.mark.parametrize(("name", "hint"), [("dcnv3", "did you mean `dcnv2`"), ("qqq", "known: dcn2, dcnv2")])
def test_an_unknown_model_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no model is named `{name}`: {hint}"):
        config_class(name)


def test_dropout_acts_in_training_only() -> None:
    batch = batch_of(SCHEMAS["all"], 5)
    for variant in ("dcn2", "dcnv2", "deepfm", "din", "dlrm"):
        model = model_of(variant, dropout=0.5, hidden=(64,))
        assert not torch.equal(model(batch), model(batch)), variant
        model.eval()
        assert torch.equal(model(batch), model(batch)), variant


def xor() -> tuple[Inputs, Batch]:
    """64 rows: every user with every item, labelled by whether just one of the two is odd: each alone says nothing.

    The history holds items as odd as the user: a candidate must be held against it to be understood.
    """
    ids = (
        IdInput("user", "user", 8, "categorical", "user"),
        IdInput("item", "item", 8, "categorical", "item"),
        IdInput("history", "item", 8, "sequence", "user", shares="item"),
    )
    grid = [(user, item) for user in range(8) for item in range(8)]
    bags = [[[u] for u, _ in grid], [[i] for _, i in grid], [[u, (u + 2) % 8] for u, _ in grid]]
    labels = torch.tensor([[float((u + i) % 2)] for u, i in grid])
    return inputs(dense=0, ids=ids), Batch(torch.zeros(64, 0), jagged([f.name for f in ids], bags), labels)


def auc(scores: Tensor, labels: Tensor) -> float:
    """The share of (positive, negative) pairs in the right order, ties counting half."""
    gaps = scores[labels == 1].unsqueeze(1) - scores[labels == 0]
    return ((gaps > 0).double() + 0.5 * (gaps == 0)).mean().item()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sixty-four rows are too few to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fit(variant: str, steps: int) -> float:
    """AUC on the rows that it was trained on, by plain Adam."""
    what, batch = xor()
    model = model_of(variant, what, noise=False, embedding_std=0.3)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    assert batch.labels is not None
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels).backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.to_dense()
        optimiser.step()
    return auc(model.predict(batch), batch.labels)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "lr"])
def test_interactions_fit_an_xor(variant: str) -> None:
    assert fit(variant, 200) > 0.95


@pytest.mark.usefixtures("one_thread")
def test_logistic_regression_cannot_fit_an_xor() -> None:
    assert fit("lr", 200) < 0.7


def test_two_hashes_make_one_embedding_side_by_side() -> None:
    what = inputs(dense=0, ids=TWO_HASHES)
    model = model_of("dcn2", what)
    batch = batch_of(what, 6)
    x, _ = model.tables(batch)
    assert model.fields == ["user", "item", "history"]
    assert model.layout.slices["user"] == slice(0, 4)
    ids = dict(zip(batch.ids.features, unpack(batch.ids), strict=True))
    for mark, columns in (("", slice(0, 2)), (":2", slice(2, 4))):
        rows, weights = model.tables.table(f"user{mark}")
        known = torch.tensor([i if 0 <= i < len(rows) else 0 for (i,) in ids[f"user{mark}"]])
        expected = rows[known] * (1 if weights is None else weights[known])
        torch.testing.assert_close(x[:, columns], expected)


@every
def test_hashes_take_as_many_bytes_as_one(variant: str) -> None:
    def table_bytes(ids: tuple[IdInput, ...]) -> int:
        model = model_of(variant, inputs(ids=ids), collision_weights=False)
        return sum(rows.numel() for rows in model.tables.parameters())

    if variant != "lr":
        one, two = table_bytes((USER, ITEM, HISTORY)), table_bytes(TWO_HASHES)
        assert two == one


def test_an_embedding_that_hashes_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="embedding_dim 5 is no multiple of the 2 hashes of feature `user`"):
        model_of("dcn2", inputs(ids=TWO_HASHES), embedding_dim=5)


def test_deepfm_reads_every_column_of_several_hashes() -> None:
    model = model_of("deepfm", inputs(ids=TWO_HASHES))
    assert isinstance(model, DeepFM)
    assert model.layout.width - 3 == model.width  # three first-order terms come last


def test_first_order_terms_between_embeddings_of_several_dims_are_refused() -> None:
    what = inputs(ids=(*TWO_HASHES, TAGS), tasks=(CLICK, RATING))
    with pytest.raises(ConfigError, match="embeddings of 2, 4 columns, some of 2 as the first-order terms have"):
        model_of("deepfm", what, embedding_dim=4)
