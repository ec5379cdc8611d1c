"""Where histories come from, as a recipe says it: a named source, a table of interactions, or a line a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from recsys.config import Config, Files
from recsys.data.catalogue import Catalogue
from recsys.data.histories import Interactions, from_events
from recsys.data.history_sources import histories_of, read_lines
from recsys.errors import DataError

__all__ = ["HistoryData"]


class HistoryData(Config):
    """What users did."""

    source: str | None = None
    """A source that has histories: movielens-100k, wikipedia."""
    events: Files = ()
    """Files or folders of interactions, a row each (Parquet, CSV, TSV)."""
    lines: Path | None = None
    """A text file, one user a line: the user and then the items, oldest first."""
    user: str = "user"
    """Column of `events` that names the user."""
    item: str = "item"
    """Column that names the item, in `events` and in `texts`."""
    time: str | None = None
    """Column that orders a user's events; without one, their order in the files does."""
    texts: Path | None = None
    """A table of the items, with the columns `item` and `text`: titles or descriptions."""
    text: str = "text"
    """Its column of texts."""
    collapse: bool = False
    """Whether a run of one item counts once: for data that repeat themselves, such as edits of a page."""
    least: int = Field(1, ge=1)
    """Users with fewer events are left out."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Of the order of events of one time."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = [name for name in ("source", "events", "lines") if getattr(self, name)]
        if len(named) != 1:
            raise ValueError(f"name one of `source`, `events` and `lines`, got {' and '.join(named) or 'none'}")
        return self

    def replaced(self, source: str | None = None, events: Sequence[Path] = (), lines: Path | None = None) -> Self:
        """Other data, read alike: the same columns, and runs collapsed or not as these."""
        texts = {"texts": None}  # of other items, maybe
        given = {"source": source, "events": tuple(events), "lines": lines}
        return self.parse({**self.model_dump(), **texts, **given}, "histories")

    def resolved(self) -> Self:
        """With paths that mean the same from any folder."""
        files = {"events": tuple(path.resolve() for path in self.events)}
        others = {name: path and path.resolve() for name, path in (("lines", self.lines), ("texts", self.texts))}
        return self.model_copy(update={**files, **others})

    def open(self, catalogue: Catalogue | None = None) -> Interactions:
        """Read them.

        Args:
            catalogue: The items to number by; what it does not have is left out and counted. By default those of the
                data.

        Raises:
            DataError: When a file is absent or broken, or a column is, or nothing is left.
        """
        found = self._read(catalogue)
        if not len(found.histories.items):
            known = "" if catalogue is None else " of items that the model knows"
            raise DataError(f"expected events of users{known}, got none")
        if self.texts is not None and catalogue is None:
            found = replace(found, catalogue=found.catalogue.described(self.texts, self.item, self.text))
        histories = found.histories.collapsed() if self.collapse else found.histories
        return replace(found, histories=histories.at_least(self.least) if self.least > 1 else histories)

    def _read(self, catalogue: Catalogue | None) -> Interactions:
        if self.source is not None:
            return histories_of(self.source, catalogue)
        if self.lines is not None:
            return read_lines(self.lines, catalogue)
        return from_events(self.events, self.user, self.item, self.time, catalogue, self.seed)
