"""A decoder that writes items: token after token of their semantic ids."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.config import Config
from recsys.errors import DataError
from recsys.layers.transformer import Causal, RMSNorm, Transformer, TransformerConfig
from recsys.models.generative.tokens import PAD, SPECIALS, Vocabulary

__all__ = ["Decoder", "DecoderConfig"]


class DecoderConfig(Config):
    """A decoder-only model over semantic ids."""

    transformer: TransformerConfig = TransformerConfig()
    """Its layers."""
    context: int = Field(256, gt=1)
    """Tokens that a prompt has at most, BOS and all; of a longer history the newest items are kept."""
    tied: bool = True
    """Whether logits are products with the rows of the token embedding; otherwise the head has its own."""


class Decoder(nn.Module):
    """``logits = W · norm(transformer(E[tokens]))``: the next token of a history of items, each a tuple of codes.

    The generative retrieval of TIGER (Rajput et al. 2023, arXiv 2305.05065) with a decoder-only model, as LC-Rec
    (Zheng et al. 2024, arXiv 2311.09049) and OneRec-V2 (arXiv 2508.20900) have it. Layers and names follow Llama, so
    that its checkpoints can be read (`recsys.models.generative.llama`).

    Args:
        config: Of the model.
        vocabulary: Its tokens.
        ids: Fingerprint of the semantic ids it is trained on; an empty one matches any.
    """

    def __init__(self, config: DecoderConfig, vocabulary: Vocabulary, ids: str = "") -> None:
        super().__init__()
        self.config, self.vocabulary, self.ids = config, vocabulary, ids
        width = config.transformer.width
        self.embedding = nn.Embedding(len(vocabulary), width)
        self.transformer = Transformer(config.transformer)
        self.norm = RMSNorm(width, config.transformer.norm_eps)
        self.head = nn.Linear(width, len(vocabulary), bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        if config.tied:
            self.head.weight = self.embedding.weight

    def hidden(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L], padded on the right -> what the head reads, [B, L, width]."""
        batch, length = tokens.shape
        positions = torch.arange(length, device=tokens.device).repeat(batch)
        x = self.transformer(self.embedding(tokens.flatten()), positions, Causal(batch))
        hidden: Tensor = self.norm(x)
        return hidden.view(batch, length, -1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L], padded on the right -> logits of each next token, [B, L, V]."""
        logits: Tensor = self.head(self.hidden(tokens))
        return logits

    def loss(self, tokens: Tensor, last_only: bool = False) -> Tensor:
        """Mean cross entropy of the next token in nats, over the tokens of items.

        Args:
            tokens: [B, L] prompts with the item to learn at their end, padded with PAD on the right.
            last_only: Whether only the tokens of each row's last item count; otherwise those of all items do.

        Raises:
            DataError: When no token of an item is there to learn.
        """
        targets = tokens[:, 1:]
        wanted = targets >= SPECIALS
        if last_only:
            lengths = (tokens != PAD).sum(dim=1, keepdim=True)
            place = torch.arange(1, tokens.shape[1], device=tokens.device)
            wanted = wanted & (place >= lengths - self.vocabulary.levels)
        if not wanted.any():
            raise DataError("expected tokens of items behind the first token, got none")
        return functional.cross_entropy(self.head(self.hidden(tokens)[:, :-1][wanted]), targets[wanted])
