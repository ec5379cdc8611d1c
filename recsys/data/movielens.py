"""MovieLens-100K: the published files, in either of two layouts, become rows for click prediction.

Both layouts (GroupLens's archive, and the copy that the `recbole` package carries) hold the same ratings, people and
films, and give the same rows.

A row is one rating. `label` is whether it is 4 or 5. `history` is what the user had rated 4 or 5 strictly before the
row's second: ratings of one second are not seen, because a page of films is often rated at once.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError

__all__ = ["GENRES", "HISTORY", "Film", "Person", "Raw", "read_archive", "read_wheel", "rows"]

Ints = npt.NDArray[np.int64]

GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""In the order of the 19 flags of `u.item`."""

HISTORY = 20
"""Most items that a row's history keeps."""

LIKED = 4
"""The lowest rating that counts as liked."""

ZIP_PREFIX = 2
"""Characters of the postal code that are kept: about a hundred areas, some nine people each. Three would make some
four hundred areas, two people each, which is the user over again. Canadian codes keep a letter and a digit."""

UNKNOWN = "unknown"
"""The title of film 267, of which nothing is known."""

_YEAR = re.compile(r"\s*\((\d{4})\)\s*(?:\(V\)\s*)?$")
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Person:
    """One line of the people."""

    age: int
    gender: str
    occupation: str
    zip_code: str


@dataclass(frozen=True)
class Film:
    """One line of the films."""

    title: str
    year: int | None
    genres: tuple[str, ...]


@dataclass(frozen=True)
class Raw:
    """What both layouts say."""

    ratings: Ints
    """[n, 4]: user, item, rating, seconds since 1970; sorted by user, time and item."""
    people: dict[int, Person]
    films: dict[int, Film]


def read_archive(path: Path) -> Raw:
    """Read GroupLens's `ml-100k.zip`.

    Raises:
        DataError: When it is no zip file, lacks a member, or a line has another form.
    """
    ratings = _lines(path, "ml-100k/u.data", "\t", 4, "utf-8")
    people = _lines(path, "ml-100k/u.user", "|", 5, "utf-8")
    films = _lines(path, "ml-100k/u.item", "|", 5 + len(GENRES), "latin-1")
    return _raw(
        path,
        ratings,
        people,
        {item: _film(title, _flagged(flags)) for item, title, _, _, _, *flags in films},
    )


def read_wheel(path: Path) -> Raw:
    """Read the copy inside a wheel of `recbole`, straight from the zip file: nothing is unpacked or run.

    It lacks the years in the titles, which stand in a column of their own.

    Raises:
        DataError: When it is no zip file, lacks a member, or a line has another form.
    """
    stem = "recbole/dataset_example/ml-100k/ml-100k"
    ratings, people, films = (
        list(_lines(path, f"{stem}.{part}", "\t", width, "utf-8"))[1:]
        for part, width in (("inter", 4), ("user", 5), ("item", 4))
    )
    return _raw(
        path,
        iter(ratings),
        iter(people),
        {item: _film_beside_year(title, year, genres.split()) for item, title, year, genres in films},
    )


def _lines(path: Path, member: str, separator: str, width: int, encoding: str) -> Iterator[list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(member).file_size > _MOST_BYTES:
                raise DataError(f"{path}: `{member}` is too large to be MovieLens-100K")
            text = archive.read(member).decode(encoding)
    except KeyError:
        raise DataError(f"{path}: it has no `{member}`; is it MovieLens-100K?") from None
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: `{member}` cannot be read: {error}") from None
    for number, line in enumerate(filter(None, text.split("\n")), start=1):
        parts = line.rstrip("\r").split(separator)
        if len(parts) != width:
            raise DataError(f"{path}: `{member}`, line {number}: expected {width} fields, got {len(parts)}")
        yield parts


def _raw(path: Path, ratings: Iterator[list[str]], people: Iterator[list[str]], films: dict[str, Film]) -> Raw:
    try:
        numbers = np.array(list(ratings), dtype=np.float64).reshape(-1, 4).astype(np.int64)
        persons = {int(user): Person(int(age), gender, job, code) for user, age, gender, job, code in people}
        by_item = {int(item): film for item, film in films.items()}
    except ValueError as error:
        raise DataError(f"{path}: a number cannot be read: {error}") from None
    for what, seen, known in (("user", numbers[:, 0], persons), ("item", numbers[:, 1], by_item)):
        if strangers := set(seen.tolist()) - set(known):
            raise DataError(f"{path}: {len(strangers)} {what}s have ratings and no line, such as {min(strangers)}")
    order = np.lexsort((numbers[:, 1], numbers[:, 3], numbers[:, 0]))
    return Raw(numbers[order], persons, by_item)


def _flagged(flags: list[str]) -> tuple[str, ...]:
    return tuple(genre for genre, flag in zip(GENRES, flags, strict=True) if flag == "1")


def _film_beside_year(title: str, year: str, genres: list[str]) -> Film:
    """A film of the wheel: one title still has its year, because what follows it was taken for the year."""
    if strangers := sorted(set(genres) - set(GENRES)):
        raise DataError(f"film `{title}`: unknown genres {strangers}")
    ordered = tuple(genre for genre in GENRES if genre in genres)
    if re.fullmatch(r"\d{4}", year):
        return Film(title.strip(), int(year), ordered)
    return _film(UNKNOWN if title == "unkonwn" else title, ordered)


def _film(title: str, genres: tuple[str, ...]) -> Film:
    """A film whose title ends with its year, as in ``Toy Story (1995)``; the year of all others is unknown."""
    found = _YEAR.search(title)
    return Film(title[: found.start()].strip(), int(found[1]), genres) if found else Film(title.strip(), None, genres)


def rows(raw: Raw) -> pa.Table:
    """One row a rating, sorted by user, time and item; the columns of the schema `movielens-100k`, and `title`."""
    users, items, ratings, seconds = (np.ascontiguousarray(column) for column in raw.ratings.T)
    person = _looked_up(users, _people(raw.people))
    film = _looked_up(items, _films(raw.films))
    hours = seconds // 3600
    return pa.table(
        {
            "label": pa.array((ratings >= LIKED).astype(np.int8)),
            "rating": pa.array(ratings.astype(np.float32)),
            "user": pa.array(users.astype(np.int32)),
            "age": person["age"],
            "gender": person["gender"],
            "occupation": person["occupation"],
            "zip_prefix": person["zip_prefix"],
            "history": histories(users, items, seconds, ratings >= LIKED),
            "item": pa.array(items.astype(np.int32)),
            "title": film["title"],
            "genres": film["genres"],
            "year": film["year"],
            "hour": pa.array((hours % 24).astype(np.int8)),
            "weekday": pa.array(((hours // 24 + 3) % 7).astype(np.int8)),  # 1 January 1970 was a Thursday; Monday is 0
            "timestamp": pa.array(seconds),
        }
    )


def _people(people: dict[int, Person]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(people.keys(), pa.int64()),
            "age": pa.array([person.age for person in people.values()], pa.int32()),
            "gender": pa.array([person.gender for person in people.values()], pa.string()),
            "occupation": pa.array([person.occupation for person in people.values()], pa.string()),
            "zip_prefix": pa.array([person.zip_code[:ZIP_PREFIX] for person in people.values()], pa.string()),
        }
    )


def _films(films: dict[int, Film]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(films.keys(), pa.int64()),
            "title": pa.array([film.title for film in films.values()], pa.string()),
            "genres": pa.array([film.genres for film in films.values()], pa.list_(pa.string())),
            "year": pa.array([film.year for film in films.values()], pa.float32()),
        }
    )


def _looked_up(ids: Ints, table: pa.Table) -> pa.Table:
    return table.take(pc.index_in(pa.array(ids), table["id"].combine_chunks())).combine_chunks()


def histories(users: Ints, items: Ints, seconds: Ints, liked: npt.NDArray[np.bool_]) -> pa.ListArray:
    """For each row the last items that its user liked strictly before its second, oldest first.

    Args:
        users: [n], sorted; `seconds` sorted within a user.
        items: [n].
        seconds: [n].
        liked: [n].
    """
    when = (users << 33) + seconds  # orders by user, then by time: seconds stay below 2^33 until the year 2242
    past = when[liked]
    end = np.searchsorted(past, when, side="left")
    start = np.maximum(end - HISTORY, np.searchsorted(past, users << 33, side="left"))
    offsets = np.concatenate([[0], np.cumsum(end - start)])
    places = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], end - start)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(items[liked][places], pa.int32()))
