"""RQ-VAE: an autoencoder whose latent vector is quantised level by level; the codes are the item's semantic id."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from recsys.config import Config
from recsys.data.semantic_ids import MOST_LEVELS, SemanticIds
from recsys.errors import ConfigError, DivergedError
from recsys.layers.mlp import MLP
from recsys.threads import suited_threads
from recsys.training.quantised import Epoch, Floats, Quantised, checked
from recsys.training.residual_kmeans import ROWS_PER_CODE, residual_kmeans

__all__ = ["RqVae", "RqVaeConfig", "Steps", "losses", "quantise", "revive", "train_rqvae"]

_CHUNK = 1 << 14
"""Rows at a time where nothing is learnt."""


class RqVaeConfig(Config):
    """RQ-VAE (Rajput et al. 2023)."""

    levels: int = Field(3, ge=1, le=MOST_LEVELS)
    """Codes of an item."""
    size: int = Field(256, ge=2)
    """Codes of a level."""
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (512, 256, 128)
    """Columns of the encoder's hidden layers; the decoder has them the other way round."""
    width: int = Field(32, ge=1)
    """Columns of the latent vector and of the codebooks."""
    beta: float = Field(0.25, ge=0)
    """β, how strongly latent vectors are drawn to their codes."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of AdamW."""
    batch_size: int = Field(1024, ge=1)
    """Items of a step."""
    epochs: int = Field(300, ge=1)
    """Passes over the items."""
    seed: int = Field(0, ge=0)
    """Of weights, codebooks and the order of items."""


class Steps(NamedTuple):
    """A latent vector taken apart, level by level."""

    codes: Tensor
    """[B, levels] int64."""
    residuals: Tensor
    """[levels, B, width] r_l; gradients reach the latent vector."""
    rows: Tensor
    """[levels, B, width] e_{l,c_l}; gradients reach the codebooks."""


def quantise(latent: Tensor, codebooks: Tensor) -> Steps:
    """``r_0 = z; c_l = argmin_k ‖r_l - e_lk‖²; r_{l+1} = r_l - sg[e_{l,c_l}]``.

    Args:
        latent: z [B, width].
        codebooks: e [levels, size, width].
    """
    codes, residuals, rows = [], [latent], []
    for codebook in codebooks:
        residual = residuals[-1]
        fixed = codebook.detach()
        # ‖r‖² is the same for all codes
        code = (fixed.square().sum(dim=1) - 2 * residual.detach() @ fixed.T).argmin(dim=1)
        row = codebook[code]
        codes.append(code)
        rows.append(row)
        residuals.append(residual - row.detach())
    return Steps(torch.stack(codes, dim=1), torch.stack(residuals[:-1]), torch.stack(rows))


class RqVae(nn.Module):
    """``z = encoder(x), ẑ = Σ_l e_{l,c_l}, x̂ = decoder(ẑ)``, codes from `quantise`.

    Args:
        columns: d, of the standardised vectors.
        config: Sizes.
    """

    def __init__(self, columns: int, config: RqVaeConfig) -> None:
        super().__init__()
        self.encoder = MLP(columns, config.hidden, config.width)
        self.decoder = MLP(config.width, config.hidden[::-1], columns)
        self.codebooks = nn.Parameter(torch.zeros(config.levels, config.size, config.width))

    def forward(self, x: Tensor) -> tuple[Tensor, Steps]:
        """The decoder's x̂ [B, d], and the steps; gradients of x̂ go past the codes to the encoder, straight through."""
        latent = self.encoder(x)
        steps = quantise(latent, self.codebooks)
        return self.decoder(latent + (steps.rows.sum(dim=0) - latent).detach()), steps


def losses(x: Tensor, decoded: Tensor, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
    """``‖x - x̂‖², Σ_l ‖sg[r_l] - e_l‖²`` and ``Σ_l ‖r_l - sg[e_l]‖²``, means over items and columns."""
    reconstruction = (x - decoded).square().mean()
    codebook = (steps.residuals.detach() - steps.rows).square().mean(dim=(1, 2)).sum()
    commitment = (steps.residuals - steps.rows.detach()).square().mean(dim=(1, 2)).sum()
    return reconstruction, codebook, commitment


def train_rqvae(x: npt.ArrayLike, config: RqVaeConfig, device: str = "cpu", show: bool = True) -> Quantised:
    """Train on the vectors of all items and give each its codes.

    ``L = ‖x - x̂‖² + Σ_l ‖sg[r_l] - e_l‖² + β ‖r_l - sg[e_l]‖²``, sg stopping gradients (Rajput et al. 2023, TIGER,
    arXiv 2305.05065, section 3.1, after Lee et al. 2022, arXiv 2203.01941).

    What the paper leaves open, and what was chosen:

    - The scale of x. Each column gets mean 0 and variance 1: of vectors of length one, whose columns are small, the
      latent vectors shrink and few codes are used. Columns that are constant become 0.
    - Whether norms are sums or means over columns: means, as in most published code. With sums the reconstruction of
      many columns outweighs the codebooks: 12,101 titles had 11,426 tuples after 100 epochs, with means 11,605.
    - Whether r_{l+1} sends gradients to e_l: it does not.
    - The start of the codebooks: k-means "of the first batch" in the paper, here residual k-means of the untrained
      encoder's latent vectors of up to `ROWS_PER_CODE` items a code.
    - Codes that nobody uses. After every epoch but the last, a code that no item had is put on the residual of a random
      item, each on another's.
    - The optimiser: AdamW without weight decay, where the paper has Adagrad at 0.4, which collapses in reproductions.
    - How long: the paper trains for 20,000 epochs. `epochs` is what a core can do in minutes.

    Equal input, config and thread count give equal codes on a CPU.

    Args:
        x: [I, d] vectors; row i - 1 is item i.
        config: How.
        device: Where.
        show: A progress bar on standard error.

    Raises:
        ConfigError: When the device cannot be used.
        DataError: See `quantised.checked`.
        DivergedError: When the loss is no number any more.
    """
    rows = checked(x, config.levels, config.size)
    scale = _Scale.of(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = RqVae(rows.shape[1], config)
    data = _placed(torch.from_numpy(scale.standardised(rows)), device)
    with suited_threads(model, min(config.batch_size, len(rows)), passes=3):
        model.to(data.device)
        epochs = _fit(model, data, config, show)
        codes, left = _results(model, data, rows, scale)
    ids = SemanticIds(codes, (config.size,) * config.levels)
    return Quantised(ids, model.codebooks.detach().cpu().numpy(), left, tuple(epochs))


def _placed(data: Tensor, device: str) -> Tensor:
    try:
        return data.to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ConfigError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None


def _fit(model: RqVae, data: Tensor, config: RqVaeConfig, show: bool) -> list[Epoch]:
    generator = torch.Generator().manual_seed(config.seed)
    _start(model, data, config, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    done: list[Epoch] = []
    with tqdm(range(config.epochs), desc="rq-vae", unit=" epochs", disable=None if show else True) as bar:
        for epoch in bar:
            order = torch.randperm(len(data), generator=generator).to(data.device)
            reconstruction, quantisation, used = _epoch(
                model, optimizer, data, torch.split(order, config.batch_size), config
            )
            if not math.isfinite(reconstruction + quantisation):
                raise DivergedError(f"the RQ-VAE's loss is no number in epoch {epoch + 1}; lower the learning rate")
            reset = revive(model, data, used, generator) if epoch + 1 < config.epochs else 0
            done.append(Epoch(reconstruction, quantisation, reset))
            bar.set_postfix(loss=f"{reconstruction:.4f}", reset=reset, refresh=False)
    return done


def _start(model: RqVae, data: Tensor, config: RqVaeConfig, generator: torch.Generator) -> None:
    """Put the codebooks on the residual k-means of what the untrained encoder makes of the items."""
    drawn = torch.randperm(len(data), generator=generator)[: ROWS_PER_CODE * config.size].to(data.device)
    latent = torch.cat([_encoded(model, data[part]) for part in torch.split(drawn, _CHUNK)])
    found = residual_kmeans(latent.cpu().numpy(), config.levels, config.size, config.seed)
    with torch.no_grad():
        model.codebooks.copy_(torch.from_numpy(found.codebooks))


@torch.no_grad()
def _encoded(model: RqVae, x: Tensor) -> Tensor:
    latent: Tensor = model.encoder(x)
    return latent


def _epoch(
    model: RqVae, optimizer: torch.optim.Optimizer, data: Tensor, batches: tuple[Tensor, ...], config: RqVaeConfig
) -> tuple[float, float, Tensor]:
    """Mean losses of reconstruction and codebooks, and which codes some item had [levels, size]."""
    totals = torch.zeros(2, dtype=torch.float64, device=data.device)
    used = torch.zeros(config.levels, config.size, dtype=torch.bool, device=data.device)
    for batch in batches:
        x = data[batch]
        decoded, steps = model(x)
        reconstruction, codebook, commitment = losses(x, decoded, steps)
        optimizer.zero_grad()
        (reconstruction + codebook + config.beta * commitment).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        totals += torch.stack([reconstruction, codebook]).detach() * len(x)
        used.scatter_(1, steps.codes.T, True)
    reconstruction, quantisation = (totals / len(data)).tolist()
    return reconstruction, quantisation, used


@torch.no_grad()
def revive(model: RqVae, data: Tensor, used: Tensor, generator: torch.Generator) -> int:
    """Put each code that was not used on the residual of a random item, and say how many there were.

    Args:
        model: Its codebooks change.
        data: [I, d] standardised vectors, at least as many as a level has codes.
        used: [levels, size] whether some item had the code.
        generator: Draws the items.
    """
    unused = int((~used).sum())
    if unused:
        drawn = torch.randperm(len(data), generator=generator)[: used.shape[1]].to(data.device)
        residuals = quantise(model.encoder(data[drawn]), model.codebooks).residuals
        for codebook, residual, known in zip(model.codebooks, residuals, used, strict=True):
            dead = (~known).nonzero().squeeze(1)
            codebook[dead] = residual[: len(dead)]
    return unused


@torch.no_grad()
def _results(
    model: RqVae, data: Tensor, rows: Floats, scale: _Scale
) -> tuple[npt.NDArray[np.int32], tuple[float, ...]]:
    """Codes [I, levels], and the share of the variance that is lost with the first 1, 2, … levels."""
    codes = np.empty((len(rows), len(model.codebooks)), dtype=np.int32)
    lost = np.zeros(len(model.codebooks))
    for begin in range(0, len(rows), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        steps = quantise(model.encoder(data[part]), model.codebooks)
        codes[part] = steps.codes.cpu().numpy()
        for level, latent in enumerate(steps.rows.cumsum(dim=0)):
            decoded = scale.restored(model.decoder(latent).cpu().numpy())
            lost[level] += np.square(rows[part] - decoded, dtype=np.float64).sum()
    return codes, tuple((lost / scale.total).tolist())


@dataclass(frozen=True)
class _Scale:
    """Means and standard deviations of columns, [d] each, and the sum of squared distances from the mean."""

    mean: Floats
    std: Floats
    total: float

    @classmethod
    def of(cls, rows: Floats) -> _Scale:
        mean, std = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
        varies = std > 1e-6 * np.abs(rows).max(axis=0)  # less is what rounding makes of a constant
        total = float(np.square(std).sum()) * len(rows)
        return cls(mean.astype(np.float32), np.where(varies, std, 1.0).astype(np.float32), total)

    def standardised(self, rows: Floats) -> Floats:
        return np.asarray((rows - self.mean) / self.std)

    def restored(self, rows: Floats) -> Floats:
        return np.asarray(rows * self.std + self.mean)
