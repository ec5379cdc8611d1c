"""Adult (census income): the table as UCI gives it becomes rows with a 0/1 label.

Beside MovieLens it is what needs no network. It has no users, no items and no times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.readers import read
from recsys.errors import DataError

__all__ = ["rows"]

_ANSWERS = ("<=50K", ">50K")
_MISSING = "?"


def rows(path: Path) -> pa.Table:
    """The 14 columns of the census under their own names, `?` as missing; and `label`: over $50,000 a year?

    Raises:
        DataError: When the file is broken, or `income` is absent or holds anything but its two answers.
    """
    table = read(path).replace_schema_metadata(None).combine_chunks()
    if "income" not in table.column_names:
        raise DataError(f"{path}: missing column `income`; it has: {', '.join(table.column_names)}")
    answers = pc.index_in(pc.utf8_trim_whitespace(table["income"]), pa.array(_ANSWERS))
    if answers.null_count:
        raise DataError(f"{path}: {answers.null_count} rows of `income` are neither {_ANSWERS[0]} nor {_ANSWERS[1]}")
    label = pa.array(answers.to_numpy().astype(np.int8))
    columns = {name: _known(table[name]) for name in table.column_names if name != "income"}
    return pa.table({"label": label, **columns})


def _known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text without blanks around it, and null for the mark of a missing answer; numbers as they are."""
    if not pa.types.is_string(column.type):
        return column
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(text, _MISSING), pa.scalar(None, pa.string()), text)
