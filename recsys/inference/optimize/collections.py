"""Torchrec's EmbeddingBagCollections, float and quantised, read without importing torchrec.

Whoever has such a module has imported torchrec; its classes are told by their names.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from recsys.data.batch import JaggedIds
from recsys.dataflow.storage import Source
from recsys.inference.optimize.layout import keyed_jagged
from recsys.inference.optimize.sites import Ask, Part, Pooling, Site, Switch, Want

__all__ = ["CollectionSite", "float_collection", "quantised_collection"]


class CollectionSite(Site):
    """A collection: KeyedJaggedTensor to KeyedTensor."""

    def ask(self, features: Any) -> Ask | None:
        """One stride for all keys, and weights where the collection takes some."""
        if type(features) is not keyed_jagged() or features.variable_stride_per_key():
            return None
        weighted = bool(self.module.is_weighted())
        weights = features.weights_or_none()
        keys = tuple(features.keys())
        missing = not {want.feature for want in self.wants} <= set(keys) or (weighted and weights is None)
        if missing or features.inverse_indices_or_none() is not None:
            return None
        tensors = (features.values(), features.offsets(), *((weights,) if weighted else ()))
        return Ask("keyed", tensors, ((tensors[1].shape[0] - 1) // len(keys),), weighted, keys)

    def part(self, ask: Ask) -> Part | None:
        """It has features of its own; see `jagged`."""
        return None

    def jagged(self, ask: Ask) -> JaggedIds:
        """As torchrec packs them."""
        return JaggedIds(ask.keys, *ask.tensors)

    def give(self, ask: Ask, x: Tensor) -> Any:
        """A KeyedTensor."""
        keyed: Any = sys.modules["torchrec.sparse.jagged_tensor"].KeyedTensor
        return keyed(keys=self.module._embedding_names, length_per_key=self.dims, values=x)


def float_collection(name: str, module: Any, switch: Switch) -> CollectionSite | str:
    """A site for `torchrec.EmbeddingBagCollection`; or why there is none."""
    configs = module.embedding_bag_configs()
    weights = [module.embedding_bags[config.name].weight for config in configs]
    odd = next((w for w in weights if w.dtype is not torch.float32 or not w.is_cpu), None)
    if odd is not None:  # float16 rows are summed as float16 there
        return f"its weights are {odd.dtype} on {odd.device}"
    return _site(name, module, switch, configs, tuple(map(Source, weights)))


def quantised_collection(name: str, module: Any, switch: Switch) -> CollectionSite | str:
    """A site for `torchrec.quant.EmbeddingBagCollection`; or why there is none."""
    if module._output_dtype is not torch.float32:
        return f"it gives {module._output_dtype}"
    groups = list(module._key_to_tables.values())
    configs = [config for group in groups for config in group]
    sources: list[Source] = []
    for group, kernel in zip(groups, module._emb_modules, strict=True):
        split = kernel.split_embedding_weights(split_scale_shifts=True)
        for config, (rows, scales) in zip(group, split, strict=True):
            bits = _BITS.get(config.data_type.name)
            if bits is None or not rows.is_cpu:
                return f"its rows are {config.data_type.name} on {rows.device}"
            sources.append(_source(rows, scales, bits, config.embedding_dim))
    return _site(name, module, switch, configs, tuple(sources))


_BITS = {"FP32": 32, "FP16": 16, "INT8": 8, "INT4": 4, "INT2": 2}


def _source(rows: Tensor, scales: Tensor | None, bits: int, dim: int) -> Source:
    """The same rows as ours are stored: of fewer bits than 8 each takes a byte, so that no column changes."""
    if bits >= 16:
        floats = rows.contiguous().view(torch.float32 if bits == 32 else torch.float16)
        return Source(floats[:, :dim], "fp32" if bits == 32 else "fp16")
    assert scales is not None
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)  # the first column lies in the lowest bits
    q = ((rows.unsqueeze(2) >> shifts) & (2**bits - 1)).flatten(1)[:, :dim]
    header = scales.contiguous().view(torch.float16).float().contiguous().view(torch.uint8)
    return Source(torch.cat([q, header], dim=1), "int8")


def _site(
    name: str, module: Any, switch: Switch, configs: list[Any], sources: tuple[Source, ...]
) -> CollectionSite | str:
    poolings: dict[str, Pooling] = {"SUM": "sum", "MEAN": "mean"}
    odd = next((config.pooling.name for config in configs if config.pooling.name not in poolings), None)
    if odd is not None:
        return f"it pools by {odd}"
    wants = tuple(
        Want(feature, k, poolings[config.pooling.name])
        for k, config in enumerate(configs)
        for feature in config.feature_names
    )
    return CollectionSite(name, module, sources, wants, switch)


CLASSES = {
    "torchrec.modules.embedding_modules": float_collection,
    "torchrec.quant.embedding_modules": quantised_collection,
}
"""The module that has the class `EmbeddingBagCollection`, and how to read it."""


def is_collection(module: nn.Module) -> bool:
    """Whether it is one of these."""
    return type(module).__name__ == "EmbeddingBagCollection" and type(module).__module__ in CLASSES
