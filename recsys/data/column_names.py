"""What the name of a column tells: whose it is, whether it holds codes or amounts, lists in order, a time or a label.

Names are taken apart into words: ``cms_group_id``, ``userId`` and ``userid`` have the words that people see in them,
and ``valid`` or ``message`` no "id" or "age".
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from recsys.data.schema import Side

__all__ = ["LABELS", "is_item", "is_label", "is_user", "meaning", "ordered", "side", "timely", "words"]


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


_PEOPLE = _set("user users uid member customer visitor viewer reader buyer person account")
_THINGS = _set(
    """
    item items iid ad ads adgroup adid product products movie movies film films book books song songs artist
    track video news article sku asin brand campaign advertiser creative shop seller merchant goods listing
    """
)
_OF_PEOPLE = _set(
    """
    age gender sex occupation job profession education marital relationship race nationality native zip zipcode
    postcode household income
    """
)
_OF_THINGS = _set("price cate category categories genre genres title")
_CODES = _set(
    """
    id ids uid iid pid cid aid sid gid adid code codes type types class level group seg segment flag zip zipcode
    postcode gender sex city country region state language channel slot device os browser site app domain ip
    weekday day month hour bucket bin index key no cate category categories genre genres
    """
)
_AMOUNTS = _set(
    """
    age price cost amount count counts num number quantity qty score rating hours minutes seconds duration
    length width height weight size value income salary gain loss ratio rate share percent views clicks sum
    total avg mean average distance days year
    """
)
_ORDERED = _set("history histories hist sequence seq click clicks clicked recent last list past previous")
_TIMES = _set("time date datetime timestamp ts hour day created updated")
LABELS = _set(
    """
    label labels click clicked clk isclick target y conversion converted isconverted purchase purchased rating
    ispurchase isclicked clicklabel
    """
)
"""Names that labels go by, without what is between their words."""
_GLUE = _set("stamp new shopping cms is final by of per")
_KNOWN = _PEOPLE | _THINGS | _OF_PEOPLE | _OF_THINGS | _CODES | _AMOUNTS | _ORDERED | _TIMES | _GLUE


def words(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case; a word that is wholly made of known ones is taken apart."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    parts = [part.lower() for part in re.findall(r"[A-Za-z]+", spaced)]
    return tuple(word for part in parts for word in (_apart(part) or (part,)))


@cache
def _apart(part: str) -> tuple[str, ...] | None:
    """A word as known words of two letters or more, as few as can be, or None."""
    if part in _KNOWN:
        return (part,)
    if len(part) > 40:
        return None
    found = [
        (part[:end], *rest) for end in range(2, len(part) - 1) if part[:end] in _KNOWN and (rest := _apart(part[end:]))
    ]
    return min(found, key=len, default=None)


def side(name: str) -> Side:
    """Whose a column is. A word for a person or a thing decides, then one for what only one of them has."""
    seen = set(words(name))
    for people, things in ((_PEOPLE, _THINGS), (_OF_PEOPLE, _OF_THINGS)):
        user, item = bool(seen & people), bool(seen & things)
        if user or item:
            return "context" if user and item else "user" if user else "item"
    return "context"


def is_user(name: str) -> bool:
    """Whether a name is that of the user's id: a word for a person, alone or with "id"."""
    seen = words(name)
    return bool(set(seen) & _PEOPLE) and set(seen) <= _PEOPLE | {"id", "key", "code"}


def is_item(name: str) -> bool:
    """Whether a name is that of the item's id: a word for a thing, alone or with "id"."""
    seen = words(name)
    return bool(set(seen) & _THINGS) and set(seen) <= _THINGS | {"id", "key", "code"}


def meaning(name: str) -> Literal["code", "amount"] | None:
    """Whether numbers of that name are codes or amounts; the last word that tells decides, as it does in English."""
    for word in reversed(words(name)):
        if word in _AMOUNTS:
            return "amount"
        if word in _CODES or word in _PEOPLE or word in _THINGS:
            return "code"
    return None


def ordered(name: str) -> bool:
    """Whether a list of that name is in order: a history, clicks, a sequence."""
    return bool(set(words(name)) & _ORDERED)


def timely(name: str) -> bool:
    """Whether a name says time."""
    return bool(set(words(name)) & _TIMES)


def is_label(name: str) -> bool:
    """Whether a name is one that labels go by."""
    return re.sub(r"[^a-z]", "", name.lower()) in LABELS
