"""The one list of sequence models: a name, its configuration, its class."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from recsys.models.generative.base import SequenceConfig, SequenceModel
from recsys.models.generative.hstu import HSTU, HSTUConfig
from recsys.models.generative.sasrec import SASRec, SASRecConfig

__all__ = ["SEQUENCE_MODELS", "AnySequenceConfig", "build"]

SEQUENCE_MODELS: dict[str, tuple[type[SequenceConfig], Any]] = {
    "hstu": (HSTUConfig, HSTU),
    "sasrec": (SASRecConfig, SASRec),
}

AnySequenceConfig = Annotated[HSTUConfig | SASRecConfig, Field(discriminator="name")]


def build(config: AnySequenceConfig, items: int) -> SequenceModel:
    """The model that `config` describes over items 1 … I, with fresh weights."""
    model: SequenceModel = SEQUENCE_MODELS[config.name][1](items, config)
    return model
