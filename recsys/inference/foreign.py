"""What may stand in a network's file, which can be anybody's, and the same archive made anew of it.

torch builds Python and C++ of the texts in such a file: names of values become a function's arguments, sizes and
strides are evaluated, a type's module is imported. So nothing is handed on as it stands. `anew` reads the few
things that a network consists of, each by its own rule, and writes an archive of these: operators of our models and
what they are given, which values are inputs and weights, and the sizes of inputs. What torch can work out by itself is
not read at all: sizes and strides of everything else, ranges, the call's structure, comments. `worked_out` then does
that, and refuses a program that holds for some lengths only, for compiled code does not look at them again.
"""

from __future__ import annotations

import builtins
import io
import json
import keyword
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from sympy import Expr, Ge, Gt, Le, Lt, Ne, Symbol, expand, true
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from recsys.threads import torch_threads

__all__ = ["RefusedError", "anew", "worked_out"]


class RefusedError(Exception):
    """What in a file is not as a network has it."""


OPERATORS = frozenset(
    f"torch.ops.aten.{name}"
    for name in (
        "_assert_tensor_metadata.default", "add.Tensor", "addcmul.default", "arange.default", "cat.default",
        "dropout.default", "expand_as.default", "flatten.using_ints", "index.Tensor", "index_put_.default",
        "linear.default", "lt.Tensor", "matmul.default", "mul.Tensor", "new_zeros.default", "relu.default",
        "select.int", "sigmoid.default", "slice.Tensor", "square.default", "stack.default", "sub.Tensor",
        "sum.dim_IntList", "sym_size.int", "to.dtype", "transpose.int", "unsqueeze.default", "view.default",
    )
)  # fmt: skip
"""What the networks of our models are made of; `index_put_` fills zeros that the graph itself has made."""

_MEMBERS = {
    "archive_format": re.compile(rb"pt2"),
    "archive_version": re.compile(rb"\d{1,4}"),
    "byteorder": re.compile(rb"little"),
    ".data/version": re.compile(rb"\d{1,4}\n?"),
    ".data/serialization_id": re.compile(rb"\d{1,64}"),
    "data/sample_inputs/model.pt": re.compile(rb""),
}
"""What is kept as it is where it is there, and what it may be."""
_READ = ("models/model.json", "data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_RAW = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,9}")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,199}")
_CHECKED = re.compile(r"_assert_tensor_metadata(_default)?(_\d{1,9})?")
"""The name of what has no result."""
_PART = re.compile(r"[A-Za-z0-9_]{1,200}")
_TAKEN = frozenset((*keyword.kwlist, *dir(builtins), "self", "torch", "device", "inf", "nan", "NoneType", "pytree"))
"""What the function that torch writes has names for already."""
_SYMBOL = re.compile(r"Symbol\('(s\d{1,9})'(, positive=True)?(, integer=True)?\)")
_VERSION = re.compile(r"[0-9A-Za-z.+_-]{1,64}")
_STORED = {5: 8, 7: 4}
"""Types of weights and inputs, int64 and float32, by torch's numbers of them, and their bytes."""
_TYPES = (*_STORED, 4, 6, 8, 12, 13)
"""What values are cast to: int32, float16, float64, bool and bfloat16 besides."""
_INT64 = 2**63
_MOST_NODES = 10_000
_MOST_NUMBERS = 2**28
"""In one tensor, at the least lengths: no layer of ours comes near."""
_MOST_TERMS = 100
"""In a length; what our networks come to has five."""


def anew(archive: zipfile.ZipFile) -> io.BytesIO:
    """An archive of what was read of another.

    Raises:
        RefusedError: When that holds anything that no network has.
        ValueError: When it is none: a part cannot be parsed.
    """
    members = _members(archive)
    stored = _stored(archive, members)
    metas = {name: one["tensor_meta"] for name, one in stored}
    graph = _program(_json(archive.read(members["models/model.json"])), metas)
    weights = {name: one for name, one in stored if one["path_name"].startswith("weight")}
    constants = {name: one for name, one in stored if name not in weights}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name, member in members.items():
            if name not in _READ:
                made.writestr(f"archive/{name}", archive.read(member))
        for name, found in zip(_READ, (graph, {"config": weights}, {"config": constants}), strict=True):
            made.writestr(f"archive/{name}", json.dumps(found, allow_nan=False))
    content.seek(0)
    return content


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """By name without the first folder, which is any."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        folder, _, name = member.filename.partition("/")
        if member.compress_type != zipfile.ZIP_STORED:
            raise RefusedError(f"holds `{name[:80]}` compressed")
        if not folder or not (name in _MEMBERS or name in _READ or _RAW.fullmatch(name)):
            raise RefusedError(f"holds `{name[:80]}`")
        if name in found:
            raise RefusedError("holds two members of one name")
        if name.endswith(".pt") and member.file_size:
            raise RefusedError(f"holds pickled inputs, `{name}`")
        if name in _MEMBERS and not (member.file_size < 100 and _MEMBERS[name].fullmatch(archive.read(member))):
            raise RefusedError(f"holds another `{name}`")
        found[name] = member
    absent = next((name for name in _READ if name not in found), None)
    if absent is not None:
        raise RefusedError(f"holds no `{absent}`")
    return found


def _json(content: bytes) -> Any:
    """Readers differ in which of two equal keys they take, and in what they make of NaN."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise RefusedError("has two keys of one name")
        return found

    def never(text: str) -> Any:
        raise RefusedError(f"has the number {text}")

    return json.loads(content, object_pairs_hook=once, parse_constant=never)


# Values -------------------------------------------------------------------------------------------------------------


def _told(value: Any) -> str:
    return " ".join(str(value).split())[:80]


def _of(kind: type[Any], value: Any, *keys: str) -> Any:
    if type(value) is not kind:  # not isinstance: True is an int, too
        raise RefusedError(f"has `{_told(value)}` where a {kind.__name__} stands")
    absent = next((key for key in keys if key not in value), None)
    if absent is not None:
        raise RefusedError(f"has no `{absent}` in `{_told(value)}`")
    return value


def _list(value: Any, rule: Callable[[Any], Any]) -> list[Any]:
    return [rule(item) for item in _of(list, value)]


def _int(value: Any, least: int = -_INT64, most: int = _INT64 - 1) -> int:
    if not least <= _of(int, value) <= most:
        raise RefusedError(f"has a number beyond {least} and {most}")
    return int(value)


def _among(allowed: Iterable[Any]) -> Callable[[Any], Any]:
    def rule(value: Any) -> Any:
        found = next((one for one in allowed if type(one) is type(value) and one == value), None)
        if found is None and value is not None:
            raise RefusedError(f"has `{_told(value)}`")
        return found

    return rule


def _name(value: Any) -> str:
    """It becomes an argument or a variable."""
    if not _IDENTIFIER.fullmatch(_of(str, value)) or value in _TAKEN:
        raise RefusedError(f"has name `{_told(value)}`")
    return str(value)


def _dotted(value: Any) -> str:
    """It is looked up part by part."""
    parts = _of(str, value).split(".")
    if len(value) > 1000 or not all(_PART.fullmatch(part) for part in parts) or "__" in value:
        raise RefusedError(f"has name `{_told(value)}`")
    return str(value)


def _only(value: Any) -> tuple[str, Any]:
    """Kind and content of what is one of several kinds."""
    if len(_of(dict, value)) != 1:
        raise RefusedError(f"has `{_told(value)}` where one thing stands")
    ((kind, content),) = value.items()
    return kind, content


def _kinds(rules: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], dict[str, Any]]:
    def rule(value: Any) -> dict[str, Any]:
        kind, content = _only(value)
        if kind not in rules:
            raise RefusedError(f"has a value of kind `{_told(kind)}`")
        return {kind: rules[kind](content)}

    return rule


def _float(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e300:
        raise RefusedError(f"has `{_told(value)}` where a number stands")
    return float(value)


def _bool(value: Any) -> bool:
    return bool(_of(bool, value))


def _none(value: Any) -> bool:
    return True


def _cpu(value: Any) -> dict[str, Any]:
    if _of(dict, value, "type")["type"] != "cpu":
        raise RefusedError(f"has device `{_told(value)}`")
    return {"type": "cpu", "index": None}


def _tensor(value: Any) -> dict[str, str]:
    return {"name": _name(_of(dict, value, "name")["name"])}


_length = _kinds({"as_name": _name, "as_int": _int})
_argument = _kinds(
    {
        "as_none": _none,
        "as_tensor": _tensor,
        "as_tensors": lambda value: _list(value, _tensor),
        "as_optional_tensors": lambda value: _list(value, _kinds({"as_none": _none, "as_tensor": _tensor})),
        "as_int": _int,
        "as_ints": lambda value: _list(value, _int),
        "as_float": _float,
        "as_bool": _bool,
        "as_sym_int": _length,
        "as_sym_ints": lambda value: _list(value, _length),
        "as_scalar_type": _among(_TYPES),
        "as_memory_format": _among((1, 4)),
        "as_layout": _among((7,)),
        "as_device": _cpu,
    }
)
_given = _kinds({"as_tensor": _tensor, "as_sym_int": _kinds({"as_name": _name}), "as_none": _none})


# Weights ------------------------------------------------------------------------------------------------------------


def _stored(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> list[tuple[str, dict[str, Any]]]:
    """Every weight and constant: in which file it lies and how."""
    found: dict[str, dict[str, Any]] = {}
    types: dict[str, int] = {}
    for config, kind in ((_READ[1], "weights/weight"), (_READ[2], "constants/tensor")):
        for name, entry in _of(dict, _of(dict, _json(archive.read(members[config])), "config")["config"]).items():
            if _of(dict, entry, "path_name", "tensor_meta").get("use_pickle") is not False:
                raise RefusedError(f"holds pickled weights, by `{config}`")
            path = f"data/{kind.partition('/')[0]}/{_of(str, entry['path_name'])}"
            if not path.startswith(f"data/{kind}_") or path not in members:
                raise RefusedError(f"names `{_told(path)}`")
            meta = _raw(entry["tensor_meta"], members[path].file_size)
            if name in found or types.setdefault(path, meta["dtype"]) != meta["dtype"]:
                raise RefusedError(f"holds `{_told(name)}` twice")
            found[_dotted(name)] = {
                "path_name": entry["path_name"],
                "is_param": _bool(entry.get("is_param")),
                "use_pickle": False,
                "tensor_meta": meta,
            }
    return list(found.items())


def _raw(meta: Any, size: int) -> dict[str, Any]:
    """Where a tensor's numbers lie in `size` bytes; the reader behind this one does not look how many there are."""
    _of(dict, meta, "dtype", "sizes", "strides", "storage_offset")
    whole = _kinds({"as_int": lambda value: _int(value, 0, _MOST_NUMBERS * 16)})
    made = _meta(meta["dtype"], _list(meta["sizes"], whole), _list(meta["strides"], whole))
    made["storage_offset"] = whole(meta["storage_offset"])
    made["requires_grad"] = _bool(meta.get("requires_grad", False))
    sizes, strides = ([one["as_int"] for one in made[key]] for key in ("sizes", "strides"))
    if len(sizes) != len(strides):
        raise RefusedError("has as many sizes as strides in no tensor")
    last = made["storage_offset"]["as_int"] + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if 0 not in sizes and (last + 1) * _STORED[made["dtype"]] > size:
        raise RefusedError(f"holds {size:,} bytes where {(last + 1) * _STORED[made['dtype']]:,} are read")
    return made


def _meta(dtype: Any, sizes: list[Any], strides: list[Any]) -> dict[str, Any]:
    if len(sizes) > 8:
        raise RefusedError(f"has a tensor of {len(sizes)} dimensions")
    return {
        "dtype": _int(_among(_STORED)(dtype)),
        "sizes": sizes,
        "strides": strides,
        "storage_offset": {"as_int": 0},
        "device": {"type": "cpu", "index": None},
        "layout": 7,
        "requires_grad": False,
    }


# The program --------------------------------------------------------------------------------------------------------


def _program(found: Any, stored: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The contents of `model.json` from those of another."""
    _of(dict, found, "graph_module", "schema_version", "torch_version")
    if found.get("guards_code"):
        raise RefusedError("has code")
    module = _of(dict, found["graph_module"], "graph", "signature")
    graph = _of(dict, module["graph"], "inputs", "outputs", "nodes", "tensor_values")
    version = _of(dict, found["schema_version"], "major", "minor")
    if not _VERSION.fullmatch(_of(str, found["torch_version"])):
        raise RefusedError("has an odd version")
    nodes = _nodes(graph["nodes"])
    inputs = _list(graph["inputs"], _kinds({"as_tensor": _tensor}))
    outputs = _list(graph["outputs"], _kinds({"as_tensor": _tensor}))
    signature, own = _signature(module["signature"], inputs, outputs)
    symbols: list[str] = []
    values = {name: stored[weight] for name, weight in own.items() if weight in stored}
    if len(values) < len(own):
        raise RefusedError("has a weight that is not there")
    users = [one["as_tensor"]["name"] for one in inputs if one["as_tensor"]["name"] not in own]
    values |= {name: _input(_of(dict, graph["tensor_values"], name)[name], symbols) for name in users}
    lengths = [one["as_sym_int"]["as_name"] for node in nodes for one in node["outputs"] if "as_sym_int" in one]
    made = [one["as_tensor"]["name"] for node in nodes for one in node["outputs"] if "as_tensor" in one]
    if len({*own, *users, *made, *lengths}) < len(inputs) + len(made) + len(lengths):
        raise RefusedError("has two values of one name")
    if not {one["as_tensor"]["name"] for one in outputs} <= set(made):
        raise RefusedError("gives what it has not made")
    return {
        "graph_module": {
            "graph": {
                "inputs": inputs,
                "outputs": outputs,
                "nodes": nodes,
                "tensor_values": values | {name: _meta(7, [], []) for name in made},  # see `worked_out`
                "sym_int_values": {name: {"as_int": 1} for name in lengths},
                "sym_bool_values": {},
                "sym_float_values": {},
                "custom_obj_values": {},
                "is_single_tensor_return": False,
            },
            "signature": signature,
            "module_call_graph": [{"fqn": "", "signature": _call(users, len(outputs))}],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": 10},
        "range_constraints": {name: {"min_val": 1, "max_val": None} for name in symbols},
        "schema_version": {key: _int(version[key], 0, 10**6) for key in ("major", "minor")},
        "verifiers": ["TRAINING"],
        "torch_version": found["torch_version"],
        "guards_code": [],
    }


def _nodes(found: Any) -> list[dict[str, Any]]:
    if len(_of(list, found)) > _MOST_NODES:
        raise RefusedError(f"has {len(found):,} operators")
    nodes = _list(found, _node)
    zeros = {_out(node) for node in nodes if node["target"].endswith(".new_zeros.default")}
    for node in nodes:
        given = node["inputs"][0]["arg"]
        if node["target"].endswith("_.default") and (
            "as_tensor" not in given or given["as_tensor"]["name"] not in zeros
        ):
            raise RefusedError(f"has `{node['target']}` of what is not zeros")
    return nodes


def _node(found: Any) -> dict[str, Any]:
    target = _of(dict, found, "target", "inputs", "outputs")["target"]
    if type(target) is not str or target not in OPERATORS:
        raise RefusedError(f"has operator `{_told(target)}`")
    outputs = [one for one in _list(found["outputs"], _given) if "as_none" not in one]
    if len(outputs) > 1:
        raise RefusedError(f"has {len(outputs)} results of `{target}`")
    node = {"target": target, "inputs": _list(found["inputs"], _named), "outputs": outputs, "metadata": {}}
    if not node["inputs"]:
        raise RefusedError(f"has `{target}` of nothing")
    name = _out(node) if outputs else found.get("name")
    if not outputs and not (name is None or _CHECKED.fullmatch(_of(str, name))):
        raise RefusedError(f"has name `{_told(name)}`")
    return node | {"name": name, "is_hop_single_tensor_return": None}


def _out(node: Mapping[str, Any]) -> str:
    (one,) = node["outputs"] or [{"as_tensor": {"name": ""}}]
    return str(one["as_tensor"]["name"] if "as_tensor" in one else one["as_sym_int"]["as_name"])


def _named(found: Any) -> dict[str, Any]:
    name = _of(dict, found, "name", "arg")["name"]
    if not _IDENTIFIER.fullmatch(_of(str, name)):
        raise RefusedError(f"has name `{_told(name)}`")
    return {"name": name, "arg": _argument(found["arg"]), "kind": _among((1, 2))(found.get("kind"))}


def _signature(
    found: Any, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Which inputs are which weights; the others are handed in."""
    _of(dict, found, "input_specs", "output_specs")
    own: dict[str, str] = {}

    def weight(key: str) -> Callable[[Any], dict[str, Any]]:
        def rule(value: Any) -> dict[str, Any]:
            arg, name = _tensor(_of(dict, value, "arg", key)["arg"]), _dotted(value[key])
            own[arg["name"]] = name
            kept = {"persistent": _bool(value.get("persistent"))} if key == "buffer_name" else {}
            return {"arg": arg, key: name, **kept}

        return rule

    def user(value: Any) -> dict[str, Any]:
        return {"arg": _kinds({"as_tensor": _tensor})(_of(dict, value, "arg")["arg"])}

    rule = _kinds({"parameter": weight("parameter_name"), "buffer": weight("buffer_name"), "user_input": user})
    given = _list(found["input_specs"], rule)
    told = _list(found["output_specs"], _kinds({"user_output": user}))
    order = [next(iter(one.values()))["arg"] for one in (*given, *told)]
    if [one.get("as_tensor", one) for one in order] != [one["as_tensor"] for one in (*inputs, *outputs)]:
        raise RefusedError("has other inputs and outputs than it says")
    return {"input_specs": given, "output_specs": told}, own


def _input(found: Any, symbols: list[str]) -> dict[str, Any]:
    """An input's type and sizes; in memory its numbers lie one behind the other."""
    _of(dict, found, "dtype", "sizes")
    sizes = _list(found["sizes"], _kinds({"as_int": lambda n: _int(n, 0, _MOST_NUMBERS), "as_expr": _symbol}))
    strides: list[Any] = []
    lengths: list[str] = []
    factor = 1
    for size in reversed(sizes):
        strides.insert(0, _product(factor, lengths, symbols))
        if "as_int" in size:
            factor *= max(size["as_int"], 1)
        else:
            lengths.append(size["as_expr"])
            if size["as_expr"] not in symbols:
                symbols.append(size["as_expr"])
    made = [one if "as_int" in one else _product(1, [one["as_expr"]], symbols) for one in sizes]
    return _meta(found["dtype"], made, strides)


def _symbol(found: Any) -> str:
    match = _SYMBOL.fullmatch(_of(str, _of(dict, found, "expr_str")["expr_str"]))
    if match is None:
        raise RefusedError(f"has expression `{_told(found['expr_str'])}`")
    return match[1]


def _product(factor: int, names: list[str], symbols: list[str]) -> dict[str, Any]:
    """A number times lengths that vary, as torch writes it."""
    if not names:
        return {"as_int": factor}
    parts = [f"Integer({factor})"] * (factor > 1) + [f"Symbol('{name}', positive=True, integer=True)" for name in names]
    text = parts[0] if len(parts) == 1 else f"Mul({', '.join(parts)})"
    # As in the example that models are traced with: three rows, sequences of two.
    hint = factor * math.prod(3 if symbols.index(name) == 0 else 2 for name in names)
    return {"as_expr": {"expr_str": text, "hint": {"as_int": hint}}}


def _call(users: list[str], outputs: int) -> dict[str, Any]:
    """How the network is called: with its inputs one by one; it gives a tensor, or several."""
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    given = {"type": "builtins.tuple", "context": "null", "children_spec": [leaf] * len(users)}
    none = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    told = leaf if outputs == 1 else {"type": "builtins.tuple", "context": "null", "children_spec": [leaf] * outputs}
    return {
        "inputs": [],
        "outputs": [],
        "in_spec": json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [given, none]}]),
        "out_spec": json.dumps([1, told]),
        "forward_arg_names": users,
    }


# What torch works out -----------------------------------------------------------------------------------------------


class _Meta(Interpreter):
    """Runs a program with stand-ins for tensors and keeps every operator's."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False  # several lines behind each error

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.op == "output":
            if not all(isinstance(one, Tensor) for one in result):
                raise RefusedError("gives what is no tensor")
            n.meta["val"] = result
        elif n.op != "placeholder":
            n.meta["val"] = result
            _check_size(n, result)
            if n.target is torch.ops.aten.index_put_.default and not all(map(_is_fixed, n.all_input_nodes)):
                raise RefusedError("has operators that fit some lengths only")  # torch does not compare these lengths
        return result


def _is_fixed(node: Node) -> bool:
    return all(isinstance(n, int) for n in node.meta["val"].shape)


def _check_size(node: Node, value: Any) -> None:
    lengths = list(value.shape) if isinstance(value, Tensor) else [value] if isinstance(value, torch.SymInt) else []
    for n in lengths:
        if isinstance(n, torch.SymInt) and n.node.expr.count_ops() > _MOST_TERMS:
            raise RefusedError(f"has an odd length in `{node.name}`")
    if math.prod(n if isinstance(n, int) else int(n.node.hint) for n in lengths) > _MOST_NUMBERS:
        raise RefusedError(f"has too many numbers in `{node.name}`")


@torch.no_grad()
def worked_out(program: ExportedProgram) -> ExportedProgram:
    """A program that came from `anew` with all that torch can work out of it.

    Raises:
        RefusedError: When it does not hold for inputs of any length.
        Exception: Whatever torch raises of operators that do not fit each other.
    """
    taken = [node for node in program.graph.nodes if node.op == "placeholder"]
    stand_ins = [node.meta["val"] for node in taken]
    own = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    weights = {**program.constants, **program.state_dict}
    for node, value in zip(taken, stand_ins, strict=True):
        if node.name in own and not _same(value, weights[own[node.name]]):
            raise RefusedError(f"has another weight `{own[node.name]}` than it says")
    mode = stand_ins[0].fake_mode
    with mode, enable_python_dispatcher():  # without, torch 2.11 makes numbers of lengths
        _Meta(program.graph_module).run(*stand_ins)
    if mode.shape_env.replacements or not all(map(_holds, (guard.expr for guard in mode.shape_env.guards))):
        raise RefusedError("has operators that fit some lengths only")
    # Compiled for two rows or more, and run with one: an index of one too many shows in this only.
    zeros = [torch.zeros([n if isinstance(n, int) else 1 for n in one.shape], dtype=one.dtype) for one in stand_ins]
    given = (weights[own[node.name]] if node.name in own else zero for node, zero in zip(taken, zeros, strict=True))
    with torch_threads(1):  # no pool is started for so little
        Interpreter(program.graph_module).run(*given)
    return program


def _same(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, tuple(one.shape), one.stride()) == (other.dtype, tuple(other.shape), other.stride())


def _holds(guard: Expr) -> bool:
    """Whether what torch took for granted is so for all lengths from 2 on; that two differ, it may ask."""
    if isinstance(guard, Ne):
        return True
    if not isinstance(guard, Ge | Gt | Le | Lt):
        return False
    more = {one: Symbol(f"more_{one}", integer=True, nonnegative=True) + 2 for one in guard.free_symbols}
    return bool(guard.func(expand((guard.lhs - guard.rhs).subs(more)), 0) == true)
