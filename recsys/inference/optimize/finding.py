"""Find the embedding modules of a model, store their rows, and put sites in the place of their forwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys.dataflow.storage import Source, Storage
from recsys.inference.optimize import collections
from recsys.inference.optimize.report import Left, Placed
from recsys.inference.optimize.sites import BagSite, EmbeddingSite, Site, Switch, Want

__all__ = ["find", "place", "placed"]

Key = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]


def find(model: nn.Module, switch: Switch) -> tuple[list[Site], list[Left]]:
    """A site for every embedding module that can be replaced, and why others cannot."""
    sites: list[Site] = []
    left: list[Left] = []
    for name, module in _candidates(model):
        name = name or "(the model)"
        found = _site(name, module, switch)
        if isinstance(found, Site):
            sites.append(found)
        else:
            left.append(Left(name, type(module).__name__, found))
    return sites, left


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that hold embeddings, each once; what a collection holds belongs to it."""
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if collections.is_collection(module):
            inside.update(module.modules())
            yield name, module
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or _foreign(module):
            yield name, module


def _foreign(module: nn.Module) -> bool:
    """Whether it seems to hold embeddings, from its name and from what it holds by itself."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return "Embedding" in type(module).__name__ and any(one.dim() for one in own)


def _site(name: str, module: Any, switch: Switch) -> Site | str:
    if "forward" in vars(module):
        return "its forward was replaced already"
    if collections.is_collection(module):
        return collections.CLASSES[type(module).__module__](name, module, switch)
    if type(module) not in (nn.Embedding, nn.EmbeddingBag):
        return f"{type(module).__module__}.{type(module).__qualname__} is no kind that can be read"
    weight = module.weight
    if type(weight) not in (nn.Parameter, Tensor):
        return f"its weights are of the class {type(weight).__name__}"
    if weight.dtype is not torch.float32 or not weight.is_cpu:
        return f"its weights are {weight.dtype} on {weight.device}"
    if module.max_norm is not None:
        return "max_norm changes rows as they are read"
    if not weight.shape[0] or not weight.shape[1]:
        return f"its table is {list(weight.shape)}"
    if type(module) is nn.Embedding:
        return EmbeddingSite(name, module, (Source(weight),), (Want("", 0),), switch)
    if module.mode not in ("sum", "mean"):
        return f"it pools by {module.mode}"
    return BagSite(name, module, (Source(weight),), (Want("", 0, module.mode),), switch)


def place(sites: Sequence[Site]) -> Storage:
    """Copy all rows to huge pages, each table once, and give them to the sites.

    Raises:
        ConfigError: When they do not fit into memory.
    """
    sources = {_key(source): source for site in sites for source in site.sources}
    names = {key: str(k) for k, key in enumerate(sources)}
    storage = Storage({names[key]: source for key, source in sources.items()})
    for site in sites:
        site.rows = tuple(storage.tables[names[_key(source)]] for source in site.sources)
    return storage


def _key(source: Source) -> Key:
    """What is the same for the same memory."""
    rows = source.rows
    return rows.data_ptr(), tuple(rows.shape), rows.stride(), rows.dtype


def placed(sites: Sequence[Site]) -> list[Placed]:
    """What a report says of them; bytes that sites share are the first one's."""
    seen: set[int] = set()
    found = []
    for site in sites:
        fresh = {rows.data.data_ptr(): rows.data.nbytes for rows in site.rows if rows.data.data_ptr() not in seen}
        seen.update(fresh)
        dims, dtypes = sorted({rows.dim for rows in site.rows}), sorted({rows.dtype for rows in site.rows})
        count = sum(len(rows.data) for rows in site.rows)
        found.append(
            Placed(
                site.name,
                type(site.module).__name__,
                len(site.rows),
                count,
                tuple(dims),
                tuple(dtypes),
                sum(fresh.values()),
            )
        )
    return found
