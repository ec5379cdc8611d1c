"""Take the network out of a trained model as a program of its own."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from recsys.inference.network import tidied
from recsys.models.base import RankingModel, to_scores

__all__ = ["trace"]


class _Scores(nn.Module):
    """Scores [B, tasks] of x [B, width] and of (rows [B, L, dim], lengths [B]) for each unpooled look-up."""

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        bare = copy.copy(model)
        bare._modules = {name: module for name, module in model._modules.items() if name != "tables"}
        self.model, self.tasks = bare, model.inputs.tasks

    def forward(self, x: Tensor, *sequences: Tensor) -> Tensor:
        pairs = zip(sequences[::2], sequences[1::2], strict=True)
        named = dict(zip(self.model.layout.sequences, pairs, strict=True))
        return to_scores(self.model.network(x, named), self.tasks)


def trace(model: RankingModel) -> ExportedProgram:
    """The program of a trained model's network, for batches and sequences of any length from 1 on.

    Its inputs are x [B, width], then for each of the layout's sequences its rows [B, L, dim] and lengths [B]; it gives
    scores [B, tasks]. The model stays as it is.
    """
    batch = Dim("batch", min=1)
    inputs: list[Tensor] = [torch.zeros(3, model.layout.width)]
    shapes: list[dict[int, Dim]] = [{0: batch}]
    for k, dim in enumerate(model.layout.sequences.values()):
        inputs += [torch.zeros(3, 2, dim), torch.full((3,), 2)]
        shapes += [{0: batch, 1: Dim(f"length{k}", min=1)}, {0: batch}]
    dynamic = (shapes[0], tuple(shapes[1:])) if len(shapes) > 1 else (shapes[0],)
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            return tidied(torch.export.export(_Scores(model).eval(), tuple(inputs), dynamic_shapes=dynamic))
    finally:
        for module, training in modes.items():
            module.training = training
