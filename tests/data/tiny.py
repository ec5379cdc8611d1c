"""A hand-made MovieLens-100K of two people, five films and six ratings, in both layouts."""

from __future__ import annotations

import zipfile
from pathlib import Path

from recsys.data.movielens import GENRES

RATINGS = [
    (1, 5, 2, 300),
    (2, 1, 4, 881250949),  # Thursday 4 December 1997, 15:55:49 UTC
    (1, 4, 4, 200),
    (1, 2, 4, 100),
    (1, 1, 5, 100),
    (1, 3, 3, 200),
]
PEOPLE = [(1, 24, "M", "technician", "01002"), (2, 53, "F", "other", "E2A4H")]
FILMS = [
    ("Toy Story (1995)", "Toy Story", "1995", "Animation Children's Comedy"),
    ("GoldenEye (1995)", "GoldenEye", "1995", "Action Adventure Thriller"),
    ("unknown", "unkonwn", "unkonwn", "unknown"),
    ("Giving, The (1995) (V)", "Giving, The (1995)", "V", "Animation Children's"),
    ("Misérables, Les (Hugo) (1995) ", "Misérables, Les (Hugo)", "1995", "Drama Musical"),
]
"""Title of the archive; title, year and genres of the wheel."""


def archive_members() -> dict[str, bytes]:
    """The members of GroupLens's archive that are read, and one that is not."""
    ratings = "".join("\t".join(map(str, row)) + "\n" for row in RATINGS)
    people = "".join("|".join(map(str, row)) + "\n" for row in PEOPLE)
    films = "".join(
        "|".join([str(item), title, "01-Jan-1995", "", "http://example.org", *_flags(genres)]) + "\n"
        for item, (title, _, _, genres) in enumerate(FILMS, start=1)
    )
    return {
        "ml-100k/README": b"terms",
        "ml-100k/u.data": ratings.encode(),
        "ml-100k/u.user": people.encode(),
        "ml-100k/u.item": films.encode("latin-1"),
    }


def wheel_members() -> dict[str, bytes]:
    """The members of the wheel: the same, in another order of rows, under a header, and what makes it a wheel."""
    ratings = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    ratings += ["\t".join(map(str, row)) for row in reversed(RATINGS)]
    people = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    people += ["\t".join(map(str, row)) for row in PEOPLE]
    films = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    films += [f"{item}\t{title}\t{year}\t{genres}" for item, (_, title, year, genres) in enumerate(FILMS, start=1)]
    stem = "recbole/dataset_example/ml-100k/ml-100k"
    files = {f"{stem}.inter": ratings, f"{stem}.user": people, f"{stem}.item": films}
    info = "recbole-1.2.1.dist-info"
    return {
        **{name: "\n".join(lines).encode() for name, lines in files.items()},
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    """Write a zip file; equal members give equal bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def write_archive(folder: Path) -> Path:
    """GroupLens's layout."""
    return write_zip(folder / "ml-100k.zip", archive_members())


def write_wheel(folder: Path) -> Path:
    """The wheel's layout."""
    return write_zip(folder / "recbole-1.2.1-py3-none-any.whl", wheel_members())


def _flags(genres: str) -> list[str]:
    return ["1" if genre in genres.split() else "0" for genre in GENRES]
