"""A model of somebody else's gives the same scores when it is optimised, and is as it was when it is put back."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import recsys
from recsys.dataflow import platform
from recsys.errors import ConfigError, DataError, MissingExtraError
from recsys.inference import backends
from recsys.inference.backends import load
from recsys.inference.choice import Choice
from recsys.inference.optimize import OptimizeConfig, OptimizedModule, optimize, work

EAGER = OptimizeConfig(backend="eager")
ROWS = (1, 2, 5, 64, 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)


def checked(
    model: nn.Module,
    batch: Callable[[int], tuple[Any, ...]],
    whole: bool = True,
    config: OptimizeConfig = EAGER,
    rows: Sequence[int] = ROWS,
    calls: int | None = None,
) -> OptimizedModule:
    """Optimise, and compare with the model itself over batch sizes; `whole`: the network was compiled and used."""
    model.eval()
    given = {n: batch(n) for n in rows}
    with torch.no_grad():
        expected = {n: model(*given[n]) for n in rows}
    made = optimize(model, batch(6), config)
    assert bool(made.report.eager) is not whole, str(made.report)
    for n in rows:
        torch.testing.assert_close(made(*given[n]), expected[n], rtol=1e-5, atol=1e-5)
    assert made.apart == (sum(n == 0 for n in rows) if whole else 0)  # an empty batch is the module's own affair
    assert calls is None or made.report.calls == calls
    with torch.no_grad():  # module by module
        for n in rows:
            torch.testing.assert_close(model(*given[n]), expected[n], rtol=1e-5, atol=1e-5)
    return made


def ids(rows: int, *shape: int) -> Tensor:
    return torch.randint(0, rows, shape)


class Bag(nn.Module):
    """One bag and a linear layer."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(50, 8, **options)
        self.top = nn.Linear(8, 2)

    def forward(self, *words: Tensor | None) -> Tensor:
        out: Tensor = self.top(self.table(*words))
        return out


def offsets(n: int, last: bool = False) -> tuple[Tensor, Tensor]:
    """n bags of 0 to 3 ids."""
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), torch.randint(0, 4, (n,)).cumsum(0)])
    return ids(50, int(bounds[-1])), bounds if last else bounds[:-1]


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 3])
def test_bags_in_rows(mode: str, padding: int | None) -> None:
    checked(Bag(mode=mode, padding_idx=padding), lambda n: (ids(6, n, 4),))
    checked(Bag(mode=mode, padding_idx=padding), lambda n: (ids(6, n, 1),))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding", [None, 3])
def test_bags_with_offsets(mode: str, last: bool, padding: int | None) -> None:
    checked(Bag(mode=mode, include_last_offset=last, padding_idx=padding), lambda n: offsets(n, last))


def test_weighted_bags() -> None:
    def jagged(n: int) -> tuple[Any, ...]:
        values, at = offsets(n)
        return values, at, torch.rand(len(values))

    checked(Bag(mode="sum"), jagged)
    checked(Bag(mode="sum", padding_idx=2), jagged)
    checked(Bag(mode="sum"), lambda n: (ids(50, n, 3), None, torch.rand(n, 3)))


def test_int32_ids() -> None:
    checked(Bag(mode="sum"), lambda n: (ids(50, n, 2).int(),))


class Columns(nn.Module):
    """The common hand-written model: a table for each column of ids."""

    def __init__(self, way: str, dims: Sequence[int] = (4, 4, 4, 4)) -> None:
        super().__init__()
        kind = nn.EmbeddingBag if way in ("slice", "unsqueeze", "split") else nn.Embedding
        options: dict[str, Any] = {"mode": "sum"} if kind is nn.EmbeddingBag else {}
        self.tables = nn.ModuleList(kind(20 + k, dim, **options) for k, dim in enumerate(dims))
        self.way, self.top = way, nn.Linear(3 + sum(dims), 1)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        n = len(self.tables)
        ways: dict[str, Callable[[], Sequence[Tensor]]] = {
            "slice": lambda: [ids[:, k : k + 1] for k in range(n)],
            "unsqueeze": lambda: [ids[:, k].unsqueeze(1) for k in range(n)],
            "split": lambda: torch.split(ids, 1, dim=1),
            "select": lambda: [ids[:, k] for k in range(n)],
            "unbind": lambda: ids.unbind(1),
            "stack": lambda: ids.unbind(1),
            "rows": lambda: [ids[:, k : k + 1] for k in range(n)],
            "backwards": lambda: [ids[:, n - 1 - k] for k in range(n)],
        }
        found = [table(one) for table, one in zip(self.tables, ways[self.way](), strict=True)]
        if self.way == "stack":
            found = [torch.stack(found, dim=1).flatten(1)]
        if self.way == "rows":
            found = [torch.cat(found, dim=1).flatten(1)]
        out: Tensor = self.top(torch.cat([dense, *found], dim=1))
        return out


def columns(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3), ids(20, n, 4)


@pytest.mark.parametrize("way", ["slice", "unsqueeze", "split", "select", "unbind", "stack", "rows", "backwards"])
def test_tables_over_columns_are_looked_up_at_once_and_read_at_once(way: str) -> None:
    made = checked(Columns(way), columns, calls=1)
    assert made._compiled is not None
    parts = made._compiled._cut
    assert parts.ids is None
    targets = [str(node.target) for node in parts.network.graph.nodes]
    assert not any("slice" in target or "stack" in target for target in targets)
    assert parts.widths == (16,)


def test_tables_of_several_widths() -> None:
    checked(Columns("slice", (4, 2, 2, 8)), columns, calls=1)


class Shapes(nn.Module):
    """Rows for each id of a sequence, masked, beside a table of one id."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.one = nn.Embedding(30, 4, padding_idx=0), nn.Embedding(9, 4)
        self.top = nn.Linear(8, 1)

    def forward(self, words: Tensor, one: Tensor) -> dict[str, Tensor]:
        mask = (words != 0).unsqueeze(2)
        pooled = (self.words(words) * mask).sum(1)
        scores = self.top(torch.cat([pooled, self.one(one % 9)], dim=1)).squeeze(1)
        return {"scores": scores, "pooled": pooled}


def test_ids_of_any_shape_computed_ids_masks_and_several_results() -> None:
    made = checked(Shapes(), lambda n: (ids(30, n, 5), ids(1000, n)), calls=2)
    longer = ids(30, 3, 11), ids(1000, 3)
    with torch.no_grad():
        torch.testing.assert_close(made(*longer), made._module(*longer))
    assert made.apart == 1  # that of no rows


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Columns("slice"), Columns("select")
        self.right.tables[0].weight = self.left.tables[0].weight

    def forward(self, dense: Tensor, ids: Tensor, scale: float = 1.0, **more: Tensor) -> Tensor:
        out: Tensor = scale * (self.left(dense, ids) + self.right(dense, ids)) + sum(more.values())
        return out


def test_shared_weights_of_nested_modules_are_stored_once() -> None:
    made = checked(Nested(), columns, calls=1)
    sizes = {one.name: one.bytes for one in made.report.placed}
    assert sizes["left.tables.0"] == 20 * 4 * 4
    assert sizes["right.tables.0"] == 0
    assert made.report.bytes == sum(sizes.values())


def test_keywords_constants_and_calls_that_the_sample_did_not_show() -> None:
    model = Nested().eval()
    dense, given = columns(5)
    made = optimize(model, {"ids": given, "dense": dense, "scale": 2.0, "more": torch.ones(5, 1)}, EAGER)
    more = torch.ones(5, 1)
    expected = made._module(dense, given, 2.0, more=more)
    torch.testing.assert_close(made(dense, given, scale=2.0, more=more), expected)
    torch.testing.assert_close(made(dense, ids=given, more=more, scale=2.0), expected)
    assert made.apart == 0
    torch.testing.assert_close(made(dense, given, 1.0, more=more), expected / 2 + 0.5)
    torch.testing.assert_close(made(dense, given.int(), 2.0, more=more), expected)
    assert made.apart == 2
    with pytest.raises(TypeError, match="missing 1 required"):
        made(dense)


def test_an_id_out_of_range_is_the_modules_own_error() -> None:
    made = optimize(Columns("slice").eval(), columns(4), EAGER)
    dense, wrong = columns(4)
    wrong[2, 1] = 99
    with pytest.raises((IndexError, RuntimeError)):
        made(dense, wrong)
    with pytest.raises((IndexError, RuntimeError)):
        made(dense[:3], wrong)
    bag = optimize(Bag(mode="sum").eval(), offsets(4), EAGER)
    with pytest.raises((RuntimeError, ValueError)):
        bag(ids(50, 4), torch.tensor([1, 2, 3, 4]))


def test_what_cannot_be_the_same_is_left_and_said() -> None:
    class Own(nn.Embedding):
        pass

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.most = nn.EmbeddingBag(50, 4, mode="max")
            self.norm = nn.Embedding(50, 4, max_norm=1.0)
            self.small = nn.Embedding(50, 4, dtype=torch.float16)
            self.own = Own(50, 4)
            self.fine = nn.Embedding(50, 4, sparse=True, scale_grad_by_freq=True)

        def forward(self, ids: Tensor) -> Tensor:
            found = [self.most(ids), self.norm(ids).sum(1), self.small(ids).float().sum(1), self.own(ids).sum(1)]
            return torch.cat([*found, self.fine(ids).sum(1)], dim=1)

    model = Mixed()
    made = checked(model, lambda n: (ids(50, n, 3),), rows=(1, 2, 5), whole=False)
    left = {one.name: one.why for one in made.report.left}
    assert left.keys() == {"most", "norm", "small", "own"}
    assert "max" in left["most"]
    assert "max_norm" in left["norm"]
    assert "float16" in left["small"]
    assert "Own" in left["own"]
    assert [one.name for one in made.report.placed] == ["fine"]
    text = str(made.report)
    assert "left as it was: most (EmbeddingBag): it pools by max" in text
    assert "fine    Embedding  1       50    4    fp32       800" in text
    assert "module by module, since it" in text


def state(model: nn.Module) -> dict[str, Any]:
    """All that tells one model from another, by identity."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[name] = id(module), type(module), module.training, sorted(vars(module)), list(module._forward_hooks)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[f"{name}="] = id(parameter), parameter.requires_grad, parameter.data_ptr(), parameter._version
    return found


def test_revert_puts_back_exactly_what_was_there() -> None:
    model = Nested().eval()
    model.left.tables[1].weight.requires_grad_(False)
    model.left.tables[2].register_forward_hook(lambda *_: None)
    before = state(model)
    given = columns(5)
    made = optimize(model, given, EAGER)
    assert "forward" in vars(model.left.tables[0])
    assert sorted(model.state_dict()) == sorted(copy.deepcopy(model).state_dict())
    assert made.revert() is model
    assert state(model) == before
    assert model(*given).requires_grad
    made.close()
    with pytest.raises(ConfigError, match="put back"):
        made(*given)


def test_a_context_closes() -> None:
    model = Columns("slice").eval()
    before = state(model)
    with optimize(model, columns(4), EAGER) as made:
        assert made(*columns(3)).shape == (3, 1)
    assert state(model) == before


class Breaks(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        super().forward(dense, ids)
        raise RuntimeError("of its own")


@pytest.mark.parametrize(
    ("model", "sample", "error", "said"),
    [
        (Breaks("slice"), columns(4), RuntimeError, "of its own"),
        (Columns("slice"), columns(1), DataError, "1 rows: give 2 or more"),
        (Columns("slice"), [*columns(4)], DataError, "a tuple of arguments"),
        (Columns("slice"), (object(), columns(4)[1]), DataError, "is a object: expected tensors"),
    ],
)
def test_an_optimisation_that_fails_leaves_the_model(
    model: nn.Module, sample: Any, error: type[Exception], said: str
) -> None:
    before = state(model.eval())
    with pytest.raises(error, match=said):
        optimize(model, sample, EAGER)
    assert state(model) == before


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"call \.eval\(\)"):
        optimize(Columns("slice"), columns(4), EAGER)


def test_a_second_optimisation_finds_nothing_to_do() -> None:
    model = Columns("slice").eval()
    first = optimize(model, columns(4), EAGER)
    second = optimize(model, columns(4), EAGER)
    assert not second.report.placed
    assert {one.why for one in second.report.left} == {"its forward was replaced already"}
    second.close()
    assert "forward" in vars(model.tables[0])
    first.close()


def test_a_model_without_embeddings_is_compiled() -> None:
    made = checked(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)), lambda n: (torch.randn(n, 5),))
    assert str(made.report).startswith("no embedding module was replaced")


class Branches(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        return super().forward(dense, ids) * (2 if float(dense.sum()) > 0 else 1)


class Chained(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        first, second = self.tables[0], self.tables[1]
        out: Tensor = super().forward(dense, ids) + second(first(ids[:, 0]).argmax(dim=1)).sum(1, keepdim=True)
        return out


class Random(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        return super().forward(dense, ids) + next(counter)


counter = iter(range(1000))


@pytest.mark.parametrize(
    ("kind", "why"), [(Branches, "torch.export refuses it"), (Chained, "depend on what was looked")]
)
def test_what_cannot_be_traced_runs_module_by_module(kind: type[Columns], why: str) -> None:
    made = checked(kind("select"), columns, whole=False)
    assert why in made.report.eager
    assert why in str(made.report)


def test_a_graph_that_gives_other_scores_is_not_used() -> None:
    made = optimize(Random("select").eval(), columns(5), EAGER)
    assert "other scores" in made.report.eager


class Fixed(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        return super().forward(dense, ids).squeeze()


def test_one_row_that_is_a_case_of_its_own_runs_module_by_module() -> None:
    model = Fixed("select").eval()
    made = optimize(model, columns(5), EAGER)
    assert not made.report.eager
    assert made(*columns(7)).shape == (7,)
    assert made.apart == 0
    assert made(*columns(1)).shape == ()
    assert made.apart == 1


def test_inputs_of_different_lengths_never_reach_the_network() -> None:
    made = optimize(Columns("slice").eval(), columns(5), EAGER)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        made(torch.randn(4, 3), columns(5)[1])


def test_threads_do_not_meet() -> None:
    made = optimize(Columns("slice").eval(), columns(5), EAGER)
    batches = [columns(n) for n in range(1, 9)]
    expected = [made(*batch) for batch in batches]
    wrong: list[int] = []

    def run(k: int) -> None:
        for _ in range(50):
            if not torch.equal(made(*batches[k]), expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert made.apart == 0


def test_look_ups_are_planned_where_the_machine_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = platform.here(sorted(Path("dataflow/platforms").glob("*.toml"))[0])
    monkeypatch.setattr(platform, "here", lambda: found)
    made = checked(Columns("slice"), columns)
    assert "planned from the sample's ids for 1 of 1 cores" in made.report.plan
    unplanned = checked(Columns("slice"), columns, config=OptimizeConfig(backend="eager", cores=0))
    assert unplanned.report.plan == "not planned, one core gathers all"


def test_the_public_name() -> None:
    assert recsys.optimize is optimize
    assert OptimizeConfig().backend == "auto"


class Wrong:
    """An engine that gives something else."""

    def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Callable[[], None]:
        def run() -> None:
            out.fill_(7.0)

        return run


@pytest.mark.parametrize("trouble", ["raises", "errs"])
def test_back_ends_that_fail_or_err_are_not_used(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(program: ExportedProgram, *_: object) -> Choice:
        if trouble == "raises":
            raise KeyError("a type that it does not know")
        return Choice({1: ("onnx", Wrong()), 512: ("eager", load("eager", "fp32", program))}, {1: {"onnx": 3.0}}, {})

    monkeypatch.setattr(work, "choose", chosen)
    made = checked(Columns("slice"), columns, config=OptimizeConfig())
    assert dict(made.report.backends) == {512: "eager"}
    assert ("other scores" if trouble == "errs" else "KeyError") in made.report.unused["onnx"]
    assert "not used: onnx: " in str(made.report)


class Masked(Shapes):
    """With a mask that is given, and ids of both kinds."""

    def forward(self, words: Tensor, one: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        found = super().forward(words, one)
        return found if mask is None else found | {"scores": found["scores"] * mask * (one > 3)}


def test_onnx_runtime() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def batch(n: int) -> tuple[Tensor, ...]:
        return ids(30, n, 5), ids(1000, n).int(), torch.rand(n) > 0.5

    made = checked(Masked(), batch, config=OptimizeConfig(backend="onnx"))
    assert dict(made.report.backends) == {512: "onnx"}
    assert "up to 512: onnx" in str(made.report)


def test_aot_inductor() -> None:
    made = checked(Columns("slice"), columns, config=OptimizeConfig(backend="aoti"))
    assert dict(made.report.backends) == {512: "aoti"}


def test_a_back_end_that_was_asked_for_and_is_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "absent", lambda *_: "it is not here")
    model = Columns("slice").eval()
    before = state(model)
    with pytest.raises(MissingExtraError, match="not here"):
        optimize(model, columns(4), OptimizeConfig(backend="onnx"))
    assert state(model) == before
