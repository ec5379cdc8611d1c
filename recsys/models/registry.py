"""The one list of models: a name, its configuration, its class."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from recsys.config import nearest
from recsys.data.encoder import Inputs
from recsys.errors import ConfigError
from recsys.models.base import ModelConfig, RankingModel
from recsys.models.ranking.dcn2 import DCN2, DCN2Config
from recsys.models.ranking.dcnv2 import DCNv2, DCNv2Config
from recsys.models.ranking.deepfm import DeepFM, DeepFMConfig
from recsys.models.ranking.din import DIN, DINConfig
from recsys.models.ranking.dlrm import DLRM, DLRMConfig
from recsys.models.ranking.lr import LR, LRConfig

__all__ = ["MODELS", "AnyModelConfig", "build", "config_class"]

MODELS: dict[str, tuple[type[ModelConfig], Any]] = {
    "dcn2": (DCN2Config, DCN2),
    "dcnv2": (DCNv2Config, DCNv2),
    "deepfm": (DeepFMConfig, DeepFM),
    "din": (DINConfig, DIN),
    "dlrm": (DLRMConfig, DLRM),
    "lr": (LRConfig, LR),
}

AnyModelConfig = Annotated[
    DCN2Config | DCNv2Config | DeepFMConfig | DINConfig | DLRMConfig | LRConfig, Field(discriminator="name")
]


def config_class(name: str) -> type[ModelConfig]:
    """The configuration of a model.

    Raises:
        ConfigError: For a name that is no model's; it names the nearest.
    """
    if name not in MODELS:
        raise ConfigError(f"no model is named `{name}`: {nearest(name, list(MODELS))}")
    return MODELS[name][0]


def build(config: AnyModelConfig, inputs: Inputs) -> RankingModel:
    """The model that `config` describes, with fresh weights.

    Raises:
        SchemaError: When the data cannot feed the model.
    """
    model: RankingModel = MODELS[config.name][1](inputs, config)
    return model
