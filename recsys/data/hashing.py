"""Murmur3 over whole columns of text: the same bits as ``mmh3.hash``, value by value, at array speed.

Texts of one length are hashed together, word by word: every step of the hash is a few operations on an array.
"""

from __future__ import annotations

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["hash64", "hash64_of", "hash_row", "hash_rows", "murmur3"]

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
_WIDEST = 64
"""Texts longer than this many bytes are hashed one by one: they are rare, and each length has a pass of its own."""


def hash_row(text: str | None, name: str, bits: int, seed: int) -> int:
    """The row of one value among 1 … 2^bits - 1: murmur3 (32 bits) of ``name|text``; row 0 stays "unknown".

    A missing value (None) hashes the name alone, which no text can equal: a text comes after a bar.
    """
    key = name if text is None else f"{name}|{text}"
    return _row(mmh3.hash(key, seed, signed=False), bits)


def hash_rows(texts: pa.LargeStringArray, name: str, bits: int, seed: int) -> npt.NDArray[np.int64]:
    """`hash_row` of every text; the array holds no nulls."""
    rows = max((1 << bits) - 1, 1)
    return 1 + (murmur3(texts, f"{name}|".encode(), seed) % np.uint32(rows)).astype(np.int64)


def hash64(texts: pa.LargeStringArray, seed: int) -> npt.NDArray[np.uint64]:
    """64 bits a text, of two murmur3 hashes.

    One of them reads a byte more in front, so that its words are others: two seeds alone are not enough, because texts
    of two words that agree under one seed often agree under the next.
    """
    high, low = (murmur3(texts, prefix, seed).astype(np.uint64) for prefix in (b"", b"#"))
    return (high << np.uint64(32)) | low


def hash64_of(text: str, seed: int) -> int:
    """`hash64` of one text."""
    return mmh3.hash(text, seed, signed=False) << 32 | mmh3.hash(f"#{text}", seed, signed=False)


def murmur3(texts: pa.LargeStringArray, prefix: bytes, seed: int) -> Words:
    """``mmh3.hash(prefix + text, seed, signed=False)`` of every text [n]; the array holds no nulls."""
    data, offsets = _bytes(texts)
    lengths = np.diff(offsets)
    out = np.empty(lengths.size, dtype=np.uint32)
    for length in np.flatnonzero(np.bincount(np.minimum(lengths, _WIDEST + 1))):
        if length > _WIDEST:
            same = np.flatnonzero(lengths > _WIDEST)
            out[same] = _one_by_one(data, offsets[same], offsets[same + 1], prefix, seed)
        else:
            same = np.flatnonzero(lengths == length)
            out[same] = _equal_lengths(data, offsets[same], int(length), prefix, seed)
    return out


def _row(hashed: int, bits: int) -> int:
    return 1 + hashed % max((1 << bits) - 1, 1)


def _bytes(texts: pa.LargeStringArray) -> tuple[Bytes, Offsets]:
    """All texts one after the other and 4 bytes of padding, and where each text begins; the last offset is the end."""
    _, offsets, data = texts.buffers()
    if not len(texts) or offsets is None:
        return np.zeros(4, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    starts = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.zeros(int(starts[-1] - starts[0]) + 4, dtype=np.uint8)
    if content.size > 4:
        content[:-4] = np.frombuffer(data, dtype=np.uint8)[starts[0] : starts[-1]]
    return content, starts - starts[0]


def _one_by_one(data: Bytes, starts: Offsets, stops: Offsets, prefix: bytes, seed: int) -> Words:
    texts = (prefix + data[start:stop].tobytes() for start, stop in zip(starts, stops, strict=True))
    return np.fromiter((mmh3.hash(text, seed, signed=False) for text in texts), dtype=np.uint32, count=starts.size)


def _equal_lengths(data: Bytes, starts: Offsets, length: int, prefix: bytes, seed: int) -> Words:
    """Murmur3 of texts of `length` bytes each: the words of the prefix once, the texts' words as columns [n]."""
    total, kept = len(prefix) + length, len(prefix) % 4
    state = np.full(1, seed, dtype=np.uint32)
    for w in range(len(prefix) // 4):
        state = _mixed(state, np.frombuffer(prefix, dtype="<u4", count=1, offset=4 * w))
    # Every 4 bytes, aligned or not, as a word: word w of a text stands `kept` bytes, the prefix's rest, earlier.
    words = np.ndarray(data.size - 3, dtype="<u4", buffer=data, strides=(1,))
    rest = np.uint32(int.from_bytes(prefix[len(prefix) - kept :], "little"))
    state = np.repeat(state, starts.size)
    for w in range(-(-(kept + length) // 4)):
        word = words[starts + (4 * w - kept)] if w else (words[starts] << np.uint32(8 * kept)) | rest
        left = kept + length - 4 * w
        if left >= 4:
            state = _mixed(state, word)
        else:
            state ^= _scrambled(word & np.uint32((1 << 8 * left) - 1))
    state ^= np.uint32(total)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state = (state ^ (state >> np.uint32(shift))) * np.uint32(factor)
    return state ^ (state >> np.uint32(16))


def _mixed(state: Words, word: Words) -> Words:
    return _rotated(state ^ _scrambled(word), 13) * np.uint32(5) + np.uint32(0xE6546B64)


def _scrambled(word: Words) -> Words:
    return _rotated(word * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)


def _rotated(words: Words, by: int) -> Words:
    return (words << np.uint32(by)) | (words >> np.uint32(32 - by))
