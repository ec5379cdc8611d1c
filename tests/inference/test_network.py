"""A network leaves its model as a program that gives the same scores, and comes back from a file only if it is one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from recsys.errors import CheckpointError
from recsys.inference import network
from recsys.inference.scores import score_dtype
from recsys.inference.trace import trace
from recsys.models.base import RankingModel
from tests.dataflow.test_executor import FITTING
from tests.helpers import CLICK, RATING, batch_of, changed, inputs
from tests.models.test_models import SCHEMAS, VARIANTS, model_of


def flat(model: RankingModel, size: int) -> tuple[list[Tensor], Tensor]:
    """What the network reads of a batch, and the model's scores."""
    batch = batch_of(model.inputs, size)
    with torch.no_grad():
        x, sequences = model.tables(batch)
    return [x, *(one for pair in sequences.values() for one in pair)], model.predict(batch)


@pytest.mark.parametrize(("variant", "schema"), FITTING)
def test_the_program_of_every_model_gives_its_scores(variant: str, schema: str) -> None:
    model = model_of(variant, SCHEMAS[schema]).eval()
    module = network.eager(trace(model))
    for size in (1, 2, 70):
        given, expected = flat(model, size)
        with torch.no_grad():
            found = module(*given)
        assert found.dtype is expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def model() -> RankingModel:
    return model_of("dcn2", inputs()).eval()


@pytest.fixture(scope="module")
def written(model: RankingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "network.pt2"
    network.write(trace(model), path)
    return path


def test_a_file_holds_the_program_and_nothing_of_where_it_was_made(model: RankingModel, written: Path) -> None:
    found = network.read(written)
    assert network.digest(found) == network.digest(trace(model))
    given, expected = flat(model, 5)
    with torch.no_grad():
        torch.testing.assert_close(network.eager(found)(*given), expected)
    with zipfile.ZipFile(written) as archive:
        assert not any(b"/torch/" in archive.read(name) for name in archive.namelist())
        assert not any(archive.getinfo(n).file_size for n in archive.namelist() if n.endswith(".pt"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_model_of_two_tasks_comes_back_as_it_was(variant: str, tmp_path: Path) -> None:
    model = model_of(variant, inputs(tasks=(CLICK, RATING))).eval()
    program = trace(model)
    network.write(program, tmp_path / "network.pt2")
    found = network.read(tmp_path / "network.pt2")
    network.check(found, model.layout.width, [*model.layout.sequences.values()], 2, score_dtype(model.inputs.tasks))
    assert network.digest(found) == network.digest(program)
    told = [
        [str(node.meta["val"].size()) for node in one.graph.nodes if hasattr(node.meta.get("val"), "size")]
        for one in (program, found)
    ]
    assert told[0] == told[1]


def test_another_weight_is_another_digest(model: RankingModel) -> None:
    before = network.digest(trace(model))
    bias = next(p for name, p in model.named_parameters() if name.endswith("bias"))
    with torch.no_grad():
        bias[0] += 1
        after = network.digest(trace(model))
        bias[0] -= 1
    assert before != after


def test_half_rounds_the_products_and_nothing_else(model: RankingModel) -> None:
    program = trace(model)
    given, expected = flat(model, 40)
    with torch.no_grad():
        found = network.eager(network.half(program))(*given)
    assert found.dtype is torch.float32
    off = (found - expected).abs().max()
    assert 0 < off < 0.05
    assert network.digest(program) == network.digest(trace(model))  # the program itself stays as it is


def test_operations_are_counted_of_linear_layers(model: RankingModel) -> None:
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert network.flops(trace(model)) == 2 * sum(layer.weight.numel() for layer in layers)


def test_example_inputs_have_the_programs_shapes(model: RankingModel) -> None:
    assert [tuple(one.shape) for one in network.example(trace(model), 7)] == [(7, model.layout.width)]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def altered(path: Path, target: Path, change: Callable[[str, bytes], bytes | None], extra: str = "") -> Path:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as out:
        for info in source.infolist():
            content = change(info.filename, source.read(info))
            if content is not None:
                out.writestr(info.filename, content)
        if extra:
            out.writestr(extra, pickle.dumps(Evil()))
    return target


def in_graph(edit: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        graph = json.loads(content)
        edit(graph)
        return json.dumps(graph).encode()

    return change


def first_node(graph: dict[str, Any], target: str) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = target


def set_expression(graph: dict[str, Any], text: str) -> None:
    size = graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]
    assert "as_expr" in size
    size["as_expr"]["expr_str"] = text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda n, c: pickle.dumps(Evil()) if n.endswith("sample_inputs/model.pt") else c, "pickled inputs"),
        (
            lambda n, c: c.replace(b'"use_pickle": false', b'"use_pickle": true') if n.endswith("config.json") else c,
            "pickled weights",
        ),
        (in_graph(lambda g: first_node(g, "torch.hub.load")), "operator `torch.hub.load`"),
        (in_graph(lambda g: first_node(g, "torch.ops.prim.Print.default")), "operator `torch.ops.prim"),
        (in_graph(lambda g: set_expression(g, "__import__('os').system('true')")), "expression"),
        (in_graph(lambda g: set_expression(g, "Symbol('s0').__class__")), "expression"),
        (in_graph(lambda g: g.update(guards_code=["print('ran')"])), "has code"),
    ],
)
def test_what_would_be_run_or_unpickled_is_refused(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, told: str
) -> None:
    with pytest.raises(CheckpointError, match=told):
        network.read(altered(written, tmp_path / "evil.pt2", change))
    assert "ran" not in capsys.readouterr().out


def test_a_member_too_many_is_refused(written: Path, tmp_path: Path) -> None:
    path = altered(written, tmp_path / "evil.pt2", lambda _, content: content, extra="m/data.pkl")
    with pytest.raises(CheckpointError, match=r"holds `data\.pkl`"):
        network.read(path)


def test_what_torch_reads_is_what_was_looked_at(written: Path, tmp_path: Path) -> None:
    """Python finds an archive's list before its end, torch where the end says: here these are of two archives."""

    def other(name: str, content: bytes) -> bytes:
        return bytes(len(content)) if name.endswith("weights/weight_0") else content

    benign = altered(written, tmp_path / "benign.pt2", lambda _, content: content).read_bytes()
    evil = altered(written, tmp_path / "evil.pt2", other).read_bytes()
    assert len(benign) == len(evil)
    end = len(benign) - 22  # of an archive without a comment
    both = evil[:end] + benign
    digests = [network.digest(torch.export.load(io.BytesIO(one))) for one in (benign, evil, both)]
    assert digests[0] != digests[1] == digests[2]  # torch, left alone, reads the first one
    (tmp_path / "both.pt2").write_bytes(both)
    assert network.digest(network.read(tmp_path / "both.pt2")) == digests[0]


@pytest.mark.parametrize(
    "operator", ["from_file.default", "set_.source_Tensor", "as_strided.default", "resize_.default", "fill_.Scalar"]
)
def test_an_operator_that_no_model_has_is_refused(written: Path, tmp_path: Path, operator: str) -> None:
    evil = in_graph(lambda g: first_node(g, f"torch.ops.aten.{operator}"))
    with pytest.raises(CheckpointError, match=f"operator `torch.ops.aten.{operator}`"):
        network.read(altered(written, tmp_path / "evil.pt2", evil))


def test_two_members_of_one_name_and_compressed_ones_are_refused(written: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(written) as source:
        name, content = source.namelist()[0], source.read(source.namelist()[0])
    twice = tmp_path / "twice.pt2"
    twice.write_bytes(written.read_bytes())
    with zipfile.ZipFile(twice, "a") as out, pytest.warns(UserWarning, match="Duplicate"):
        out.writestr(name, content)
    with pytest.raises(CheckpointError, match="two members of one name"):
        network.read(twice)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(tmp_path / "z.pt2", "w", zipfile.ZIP_DEFLATED) as out:
        for one in source.namelist():
            out.writestr(one, source.read(one))
    with pytest.raises(CheckpointError, match="compressed"):
        network.read(tmp_path / "z.pt2")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04cut"])
def test_what_is_no_network_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "n.pt2").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a network's file"):
        network.read(tmp_path / "n.pt2")
    with pytest.raises(CheckpointError, match="not a network's file"):
        network.read(tmp_path / "absent.pt2")


def test_a_program_that_this_torch_cannot_read_is_one_sentence(written: Path, tmp_path: Path) -> None:
    newer = in_graph(lambda g: g["schema_version"].update(major=99))
    with pytest.raises(CheckpointError, match=f"torch {torch.__version__.split('+')[0]}.* cannot read this network"):
        network.read(altered(written, tmp_path / "new.pt2", newer))


def test_torch_itself_reads_the_file(written: Path, model: RankingModel) -> None:
    given, expected = flat(model, 3)
    found = torch.export.load(io.BytesIO(written.read_bytes())).module()(*given)
    torch.testing.assert_close(found, expected)


def renamed(old: str, new: str) -> Callable[[str, bytes], bytes]:
    """All through a file."""

    def change(name: str, content: bytes) -> bytes:
        return (
            content.replace(json.dumps(old).encode(), json.dumps(new).encode()) if name.endswith(".json") else content
        )

    return change


def graph_of(graph: dict[str, Any]) -> dict[str, Any]:
    return graph["graph_module"]["graph"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("old", ["x", "linear", "model.mlp.0.weight", "p_model_mlp_0_weight"])
@pytest.mark.parametrize(
    "new",
    [
        "{}=__import__('pathlib').Path('CANARY').touch()", "{}:__import__('pathlib').Path('CANARY').touch()",
        '{}");__import__("pathlib").Path("CANARY").touch();("', "{} ", "{}\n", "{}é", "__class__", "self", "for",
        "{}" + "a" * 2000, "", "1.__class__.{}", "torch", "print",
    ],
)  # fmt: skip
def test_a_name_that_is_none_is_refused_and_nothing_runs(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if "." in old and new in ("self", "for", "torch", "print"):
        pytest.skip("of a weight this is a name")
    assert written.read_bytes().count(json.dumps(old).encode()) > 1
    path = altered(written, tmp_path / "evil.pt2", renamed(old, new.format(old)))
    with pytest.raises(CheckpointError, match="has name"):
        network.read(path)
    assert not (tmp_path / "CANARY").exists()


def set_call(graph: dict[str, Any], **signature: Any) -> None:
    graph["graph_module"]["module_call_graph"][0]["signature"].update(signature)


EVIL_TYPE = {
    "type": "collections.defaultdict",
    "context": {"default_factory_module": "canary_of_a_network", "default_factory_name": "x", "dict_context": []},
    "children_spec": [],
}
CODE = "x=__import__('canary_of_a_network')"


@pytest.mark.parametrize(
    "edit",
    [
        lambda g: set_call(g, out_spec=json.dumps([1, EVIL_TYPE])),
        lambda g: set_call(g, in_spec=json.dumps([1, EVIL_TYPE])),
        lambda g: set_call(g, forward_arg_names=[CODE]),
        lambda g: g["graph_module"]["module_call_graph"].append({"fqn": CODE, "signature": None}),
        lambda g: g["graph_module"].update(metadata={"custom": "{"}, treespec_namedtuple_fields={"os": 1}),
        lambda g: [node.update(metadata={"nn_module_stack": CODE, "custom": "["}) for node in graph_of(g)["nodes"]],
        lambda g: graph_of(g).update(sym_bool_values={"x": CODE}, custom_obj_values={"x": {"class_fqn": CODE}}),
        lambda g: g.update(range_constraints={CODE: {"min_val": 7, "max_val": 1}}, verifiers=[CODE]),
        lambda g: [one.update(strides=[{"as_int": 1}] * 9) for one in graph_of(g)["tensor_values"].values()],
    ],
)
def test_what_torch_works_out_by_itself_is_not_read(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[dict[str, Any]], None]
) -> None:
    (tmp_path / "canary_of_a_network.py").write_text("x = int")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = network.read(altered(written, tmp_path / "evil.pt2", in_graph(edit)))
    assert network.digest(found) == network.digest(network.read(written))
    assert "canary_of_a_network" not in sys.modules


def set_meta(graph: dict[str, Any], name: str, **values: Any) -> None:
    graph_of(graph)["tensor_values"][name].update(values)


@pytest.mark.parametrize("step", [1, 146, 2**40])
def test_inputs_lie_one_behind_the_other_whatever_a_file_says(written: Path, tmp_path: Path, step: int) -> None:
    """Compiled code that believes in longer steps reads beyond them."""
    evil = in_graph(lambda g: set_meta(g, "x", strides=[{"as_int": step}, {"as_int": 1}], storage_offset={"as_int": 9}))
    (x,) = network.inputs(network.read(altered(written, tmp_path / "evil.pt2", evil)))
    assert x.is_contiguous()
    assert x.storage_offset() == 0


BOMB = "Pow(Integer(9), Pow(Integer(9), Pow(Integer(9), Integer(9))))"


@pytest.mark.parametrize(
    "text",
    [BOMB, "Symbol('x', positive=True, integer=True)", "Symbol('s0', commutative=False)", "Integer(3)", "Mul(" * 5000],
)
def test_a_length_is_a_number_or_one_that_varies(written: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match="expression"):
        network.read(altered(written, tmp_path / "evil.pt2", in_graph(lambda g: set_expression(g, text))))


class Own(nn.Module):
    """A network that is none of ours, of their operators."""

    def __init__(self, run: Callable[..., Tensor], **tensors: Tensor) -> None:
        super().__init__()
        self.run = run
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    at: Tensor
    w: Tensor

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.run(self, x, *more)


def exported(module: nn.Module, least: int = 1, **more: Any) -> ExportedProgram:
    return torch.export.export(module, (torch.zeros(3, 4),), dynamic_shapes=({0: Dim("b", min=least, **more)},))


@pytest.mark.parametrize(
    ("run", "more"),
    [
        (lambda self, x: (x[1] + x).sum(1, keepdim=True), {"least": 2}),
        (lambda self, x: (x[2] + x).sum(1, keepdim=True), {"least": 3}),
        (lambda self, x: x[:512].sum(1, keepdim=True), {"max": 511}),
        (lambda self, x: (x + self.w).sum(1, keepdim=True), {}),
        (lambda self, x: x[:, :1] + x.new_zeros(10**9)[:1], {}),
    ],
)
def test_a_program_for_some_lengths_only_is_refused(
    tmp_path: Path, run: Callable[..., Tensor], more: dict[str, Any]
) -> None:
    """Compiled code does not look at lengths: it would read what lies behind its input."""
    path = tmp_path / "own.pt2"
    network.write(network.tidied(exported(Own(run, w=torch.zeros(1, 4)), **more)), path)

    def longer(name: str, content: bytes) -> bytes:
        if name.endswith("_config.json"):
            return content.replace(b'"sizes": [{"as_int": 1}', b'"sizes": [{"as_int": 3}')
        return bytes(3 * len(content)) if name.endswith("weights/weight_0") else content

    with pytest.raises(CheckpointError, match=r"some lengths only|cannot read this network|too many numbers"):
        network.read(altered(path, tmp_path / "evil.pt2", longer))


def test_what_a_program_gives_is_worked_out_and_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "own.pt2"
    network.write(network.tidied(exported(Own(lambda self, x: x.sum(1, keepdim=True)))), path)
    network.check(network.read(path), 4, [], 1, torch.float32)

    def lie(graph: dict[str, Any]) -> None:
        (name,) = [one["as_tensor"]["name"] for one in graph_of(graph)["outputs"]]
        meta = graph_of(graph)["tensor_values"][name]
        meta["sizes"][1]["as_int"] = 2

    found = network.read(altered(path, tmp_path / "evil.pt2", in_graph(lie)))
    with pytest.raises(CheckpointError, match=r"gives \[\(torch.float32, \['length 0', 1\]\)\], expected"):
        network.check(found, 4, [], 2, torch.float32)


def test_a_number_given_in_place_of_a_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.pt2"
    network.write(network.tidied(exported(Own(lambda self, x: x.select(1, 0).unsqueeze(1)))), path)

    def count(graph: dict[str, Any]) -> None:
        graph_of(graph)["nodes"][-1] = graph_of(graph)["nodes"][-1] | {
            "target": "torch.ops.aten.sym_size.int",
            "inputs": graph_of(graph)["nodes"][0]["inputs"][:2],
        }

    with pytest.raises(CheckpointError, match="gives what is no tensor"):
        network.read(altered(path, tmp_path / "evil.pt2", in_graph(count)))


def test_lengths_that_are_to_be_the_same_must_be() -> None:
    def pair(self: Own, x: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)

    given = torch.zeros(3, 4), torch.zeros(3, 2, 5), torch.full((3,), 2)
    b, c, n = Dim("b", min=1), Dim("c", min=1), Dim("n", min=1)
    for other, fits in ((b, True), (c, False)):
        shapes = ({0: b}, ({0: other, 1: n}, {0: other}))
        program = torch.export.export(Own(pair), given, dynamic_shapes=shapes)
        with contextlib.nullcontext() if fits else pytest.raises(CheckpointError, match="the network reads"):
            network.check(program, 4, [5], 1, torch.float32)


@pytest.mark.parametrize("target", ["x", "b_w"])
def test_only_zeros_of_its_own_are_written_to(tmp_path: Path, target: str) -> None:
    def fill(self: Own, x: Tensor) -> Tensor:
        made = x.new_zeros(4)
        made[self.at] = self.w
        return x * made

    path = tmp_path / "own.pt2"
    network.write(network.tidied(exported(Own(fill, at=torch.tensor([1, 2]), w=torch.ones(2)))), path)
    network.read(path)

    def swap(graph: dict[str, Any]) -> None:
        (node,) = [n for n in graph_of(graph)["nodes"] if n["target"] == "torch.ops.aten.index_put_.default"]
        node["inputs"][0]["arg"]["as_tensor"]["name"] = target

    with pytest.raises(CheckpointError, match="of what is not zeros"):
        network.read(altered(path, tmp_path / "evil.pt2", in_graph(swap)))


def test_what_is_written_has_the_same_length_always(tmp_path: Path) -> None:
    def fill(self: Own, x: Tensor) -> Tensor:
        made = x.new_zeros(4)
        made[self.at] = x[:, 0]
        return x * made

    path = tmp_path / "own.pt2"
    network.write(network.tidied(exported(Own(fill, at=torch.tensor([0, 1, 2])))), path)
    with pytest.raises(CheckpointError, match="some lengths only"):
        network.read(path)


def test_an_input_given_back_is_refused(written: Path, tmp_path: Path) -> None:
    def give(graph: dict[str, Any]) -> None:
        graph_of(graph)["outputs"] = [{"as_tensor": {"name": "x"}}]
        graph["graph_module"]["signature"]["output_specs"] = [{"user_output": {"arg": {"as_tensor": {"name": "x"}}}}]

    with pytest.raises(CheckpointError, match="gives what it has not made"):
        network.read(altered(written, tmp_path / "evil.pt2", in_graph(give)))


def in_weights(edit: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("model_weights_config.json"):
            return content
        config = json.loads(content)
        edit(config["config"]["model.mlp.0.weight"])
        return json.dumps(config).encode()

    return change


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda w: w["tensor_meta"]["sizes"][0].update(as_int=10**6), "bytes where"),
        (lambda w: w["tensor_meta"]["strides"][0].update(as_int=10**6), "bytes where"),
        (lambda w: w["tensor_meta"]["strides"][0].update(as_int=-1), "a number beyond"),
        (lambda w: w["tensor_meta"]["storage_offset"].update(as_int=10**6), "bytes where"),
        (lambda w: w["tensor_meta"]["sizes"][0].update(as_int=2**62), "a number beyond"),
        (lambda w: w["tensor_meta"].update(dtype=12), "has `12`"),
        (lambda w: w["tensor_meta"].update(dtype=5), "bytes where"),
        (lambda w: w["tensor_meta"].update(device={"type": "meta", "index": 7}, layout=1), None),
        (lambda w: w["tensor_meta"].update(sizes=[], strides=[]), "cannot read"),
        (lambda w: w.update(path_name="weight_0"), "bytes where"),
        (lambda w: w.update(path_name="../weights/weight_0"), "names `"),
        (lambda w: w.update(path_name="weight_999"), "names `"),
        (lambda w: w.update(use_pickle=0), "pickled weights"),
        (lambda w: w.update(tensor_meta=None), "where a dict stands"),
    ],
)
def test_weights_are_what_their_bytes_are(written: Path, tmp_path: Path, edit: Any, told: str | None) -> None:
    path = altered(written, tmp_path / "evil.pt2", in_weights(edit))
    with contextlib.nullcontext() if told is None else pytest.raises(CheckpointError, match=told):
        network.read(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda n, c: c[:-1] + b', "guards_code": []}' if n.endswith("model.json") else c, "two keys of one name"),
        (lambda n, c: c.replace(b'"as_int": 1}', b'"as_int": NaN}') if n.endswith("model.json") else c, "number NaN"),
        (lambda n, c: b"[" * 10**5 if n.endswith("model.json") else c, "not a network's file"),
        (lambda n, c: b'{"a": ' * 10**5 if n.endswith("config.json") else c, "not a network's file"),
        (lambda n, c: c.replace(b'"as_int": 1}', b'"as_int": %s}' % (b"9" * 5000)), "not a network's file"),
        (lambda n, c: b"x" if n.endswith("byteorder") else c, "another `byteorder`"),
        (lambda n, c: b"[]" if n.endswith(".json") else c, "where a dict stands"),
        (lambda n, c: None if n.endswith("models/model.json") else c, "holds no `models/model.json`"),
    ],
)
def test_what_readers_take_differently_is_refused(written: Path, tmp_path: Path, change: Any, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        network.read(altered(written, tmp_path / "evil.pt2", change))


def test_whatever_compiled_code_depends_on_is_in_the_digest(model: RankingModel) -> None:
    def of(change: Callable[[ExportedProgram], None]) -> str:
        program = trace(model)
        change(program)
        return network.digest(program)

    def set_input(program: ExportedProgram, new: Callable[[Tensor], Tensor]) -> None:
        (node,) = [node for node in program.graph.nodes if node.name == "x"]
        node.meta["val"] = new(node.meta["val"])

    def swap_weights(program: ExportedProgram) -> None:
        one, other, *_ = program.graph_signature.input_specs
        one.target, other.target = other.target, one.target

    def set_range(program: ExportedProgram) -> None:
        for symbol, found in list(program.range_constraints.items()):
            program.range_constraints[symbol] = type(found)(2, found.upper)

    changes: list[Callable[[ExportedProgram], None]] = [
        lambda program: None,
        lambda program: set_input(program, lambda x: x.to(torch.bfloat16)),
        lambda program: set_input(program, lambda x: x.t().clone(memory_format=torch.contiguous_format).t()),
        lambda program: set_input(program, lambda x: x[:, 1:].clone()),
        lambda program: set_input(program, lambda x: torch.empty(3, x.shape[1])),
        set_range,
        swap_weights,
    ]
    digests = [of(change) for change in changes]
    assert len(set(digests)) == len(digests)
    assert digests[0] == of(lambda program: None)


def test_another_process_comes_to_the_same_digest(written: Path) -> None:
    code = (
        "import pathlib, sys; from recsys.inference import network;"
        "print(network.digest(network.read(pathlib.Path(sys.argv[1]))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(written)],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split()[-1] == network.digest(network.read(written))


@pytest.fixture(scope="module")
def bare(written: Path) -> dict[str, Any]:
    """The graph without what is not read."""
    with zipfile.ZipFile(written) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        graph: dict[str, Any] = json.loads(archive.read(name))
    for node in graph_of(graph)["nodes"]:
        del node["metadata"], node["is_hop_single_tensor_return"]
    graph_of(graph)["tensor_values"] = {"x": graph_of(graph)["tensor_values"]["x"]}
    module = graph["graph_module"]
    return {key: graph[key] for key in ("schema_version", "torch_version", "guards_code", "range_constraints")} | {
        "graph_module": {"graph": module["graph"], "signature": module["signature"]}
    }


@pytest.fixture(scope="module")
def scored(model: RankingModel) -> tuple[list[Tensor], Tensor]:
    return flat(model, 5)


@settings(max_examples=60)
@given(data=st.data())
def test_any_change_of_a_graph_gives_scores_or_one_sentence(
    model: RankingModel,
    written: Path,
    bare: dict[str, Any],
    scored: tuple[list[Tensor], Tensor],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    folder, (given, expected) = tmp_path_factory.getbasetemp(), scored
    canary = folder / "canary"
    touch = f"__import__('pathlib').Path('{canary}').touch()"
    texts = [touch, f"x={touch}", f"x:{touch}", f'");{touch};("', f"[{touch}]", BOMB, "x", "x.__class__", "s77", ""]
    texts += ["torch.ops.aten.select.int", "torch.ops.aten.relu.default", "torch.hub.load", "linear", "sigmoid", "cuda"]
    numbers = st.integers(-3, 20) | st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63), 10**30, -1.5, 1e308])
    places = [graph_of(bare)["nodes"][0], {"as_expr": {"expr_str": touch, "hint": None}}, {"as_string": touch}]
    values = st.sampled_from(texts) | numbers | st.none() | st.booleans() | st.sampled_from(places)
    anything = values | st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(texts), values, max_size=3)
    evil = json.dumps(changed(bare, data, anything)).encode()
    path = altered(
        written, folder / "changed.pt2", lambda name, content: evil if name.endswith("model.json") else content
    )
    with contextlib.suppress(CheckpointError):
        found = network.read(path)
        network.check(found, model.layout.width, [], expected.shape[1], expected.dtype)
        with torch.no_grad():
            scores = network.eager(found)(*given)
        assert (scores.shape, scores.dtype) == (expected.shape, expected.dtype)
    assert not canary.exists()
