"""A network leaves its model as a program that gives the same scores, and comes back from a file only if it is one."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.errors import CheckpointError
from recsys.inference import network
from recsys.inference.trace import trace
from recsys.models.base import RankingModel
from tests.dataflow.test_executor import FITTING
from tests.helpers import batch_of, inputs
from tests.models.test_models import SCHEMAS, model_of


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
