"""Semantic ids of a catalogue, from its texts or from vectors, and how good they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from recsys.data.catalogue import Catalogue
from recsys.data.semantic_ids import SemanticIds
from recsys.data.text_embeddings import SentenceEncoder, embed
from recsys.errors import ConfigError, DataError
from recsys.markdown import Cells
from recsys.training.quantised import Floats, Quantised
from recsys.training.residual_kmeans import residual_kmeans

__all__ = ["IdReport", "LevelReport", "item_ids"]


@dataclass(frozen=True)
class LevelReport:
    """One level of ids.

    Attributes:
        size: Codes there are.
        used: Codes that some item has.
        perplexity: How many codes, used equally often, would spread the items as evenly.
        left: Share of the vectors' variance that is lost with this level and those before it; None where the vectors
            are not known.
    """

    size: int
    used: int
    perplexity: float
    left: float | None


@dataclass(frozen=True)
class IdReport:
    """How good semantic ids are, before a collision token makes them distinct.

    Attributes:
        items: How many there are.
        without_text: Items that have no text and so share one tuple; None where ids were made from vectors.
        colliding: Items that share their tuple with another one.
        groups: Tuples that are shared.
        largest: Items of the tuple that most share, at least 1: the size of the collision token's level.
        levels: One record a level.
        seconds: What was done, and how long it took.
    """

    items: int
    without_text: int | None
    colliding: int
    groups: int
    largest: int
    levels: tuple[LevelReport, ...]
    seconds: dict[str, float]

    @classmethod
    def of(
        cls,
        ids: SemanticIds,
        left: tuple[float, ...] | None = None,
        without_text: int | None = None,
        seconds: dict[str, float] | None = None,
    ) -> IdReport:
        """Look at ids without a collision token; of published ones no more is known.

        Args:
            ids: Of the items.
            left: Of `Quantised`.
            without_text: How many items have none.
            seconds: What was done, and how long it took.
        """
        sizes = [len(group) for group in ids.collisions()]
        lost: tuple[float | None, ...] = left or (None,) * ids.levels
        levels = tuple(LevelReport(**asdict(use), left=share) for use, share in zip(ids.usage(), lost, strict=True))
        return cls(len(ids), without_text, sum(sizes), len(sizes), max(sizes, default=1), levels, seconds or {})

    def to_json(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self) | {"levels": [asdict(level) for level in self.levels]}

    def cells(self) -> Cells:
        """A table with a row for each level; its title has the rest."""
        rows = [
            (str(n), str(level.used), str(level.size), f"{level.perplexity:.1f}", _share(level.left))
            for n, level in enumerate(self.levels)
        ]
        title = f"{self.items:,} items; {self.colliding:,} share their tuple with another one, {self.largest} at most"
        if self.without_text:
            title += f"; {self.without_text:,} have no text"
        return Cells(title, ("level", "codes used", "of", "perplexity", "variance lost"), tuple(rows))

    def __rich__(self) -> Table:
        cells = self.cells()
        table = Table(title=cells.title, title_justify="left", min_width=len(cells.title))
        for column, name in enumerate(cells.header):
            table.add_column(name, justify="left" if column < cells.left else "right")
        for row in cells.rows:
            table.add_row(*row)
        return table


def item_ids(
    items: Catalogue | npt.ArrayLike,
    encoder: SentenceEncoder | Path | str | None = None,
    quantise: Callable[[Floats], Quantised] = residual_kmeans,
    limit: int | None = None,
    device: str = "cpu",
    show: bool = True,
) -> tuple[SemanticIds, IdReport]:
    """Give every item a tuple of codes of its own: embed, quantise, and number the items that share a tuple.

    Args:
        items: A catalogue with texts, or vectors [I, d] from anywhere (`recsys.data.text_embeddings.read_embeddings`
            reads files); row i - 1 is item i.
        encoder: Makes vectors of texts; see `recsys.data.text_embeddings.open_encoder`. Only for a catalogue.
        quantise: Makes ids of vectors: `residual_kmeans`, or
            ``lambda x: train_rqvae(x, RqVaeConfig(levels=4))``.
        limit: Most items that may share a tuple.
        device: Where the encoder runs.
        show: A progress bar on standard error while texts are embedded.

    Returns:
        The ids, the last level of which is the collision token; and how good they are without it.

    Raises:
        ConfigError: When a catalogue comes without an encoder, or vectors with one.
        DataError: When a catalogue has no texts, more items than `limit` share a tuple, or the vectors cannot be
            quantised; see `recsys.training.quantised.checked`.
        MissingExtraError: When texts are to be embedded without `transformers`.
    """
    begun = time.perf_counter()
    vectors, without_text = _vectors(items, encoder, device, show)
    embedded = time.perf_counter()
    found = quantise(vectors)
    seconds = {"embed": embedded - begun, "quantise": time.perf_counter() - embedded}
    return found.ids.distinct(limit), IdReport.of(found.ids, found.left, without_text, seconds)


def _vectors(
    items: Catalogue | npt.ArrayLike, encoder: SentenceEncoder | Path | str | None, device: str, show: bool
) -> tuple[Floats, int | None]:
    """Vectors, and how many items have no text."""
    if not isinstance(items, Catalogue):
        if encoder is not None:
            raise ConfigError("expected a catalogue with texts beside an encoder, got vectors, which need none")
        return np.asarray(items), None
    if encoder is None:
        raise ConfigError("expected a sentence encoder for the catalogue's texts; name its folder")
    if items.texts is None:
        raise DataError("the catalogue has no texts to make ids from; give it some, or pass vectors")
    return embed(items.texts, encoder, device, show=show), items.texts.null_count


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
