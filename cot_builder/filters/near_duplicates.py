"""Which texts nearly repeat an earlier one: Jaccard similarity of word 3-grams, candidates by MinHash LSH.

MinHash (Broder 1997) gives each text a signature in which two texts agree with the probability of their similarity; cut
into bands, it finds the few earlier texts worth comparing (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3).
Those are then compared exactly, so texts below the threshold are not merged. Own numpy rather than the datasketch library,
which keeps every signature where this keeps the 3-grams that the exact comparison needs; and hashes that follow from the
text alone choose the same rows on every machine, with every version of numpy and every PYTHONHASHSEED.
"""

from __future__ import annotations

from array import array
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cot_builder.filters.text_rules import words

_BANDS = 11
_SURE = 0.99
"""Probability with which two texts just at the threshold are compared (0.96 below 0.59); more similar ones are surer still."""
_ROWS = range(2, 17)
"""Hashes a band may have: more of them leave fewer texts to compare, and find fewer."""
# 3-grams hashed at one time, so that a text of any length takes little memory.
_CHUNK = 4096
_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class NearDuplicates:
    """The texts kept so far. It takes some 1.6 kB for each text of 80 words.

    Args:
        threshold: similarity in (0, 1] from which a text repeats another; 1 for the same words in any order of sentences.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        sure = [rows for rows in _ROWS if 1 - (1 - threshold**rows) ** _BANDS >= _SURE]
        self._rows = max(sure, default=_ROWS.start)
        numbers = np.arange(2 * _BANDS * self._rows, dtype=np.uint64)
        self._factors, self._shifts = _mix(numbers).reshape(2, -1, 1)
        self._factors |= np.uint64(1)
        self._grams: list[NDArray[np.uint32]] = []
        self._newest: dict[int, int] = {}
        """The newest text of each bucket."""
        self._older = array("i")
        """Per text and band, the text before it in its bucket, or -1."""

    def repeats(self, text: str) -> bool:
        """Check whether a text nearly repeats one that was kept; it is kept when it does not. The order of calls matters."""
        grams = _grams(text)
        buckets = self._buckets(grams)
        seen: set[int] = set()
        for band, bucket in enumerate(buckets):
            other = self._newest.get(bucket, -1)
            while other >= 0:
                if other not in seen and self._similar(grams, self._grams[other]):
                    return True
                seen.add(other)
                other = self._older[other * _BANDS + band]
        self._older.extend(self._newest.get(bucket, -1) for bucket in buckets)
        self._newest.update(dict.fromkeys(buckets, len(self._grams)))
        self._grams.append(grams)
        return False

    def _similar(self, a: NDArray[np.uint32], b: NDArray[np.uint32]) -> bool:
        if min(len(a), len(b)) < self._threshold * max(len(a), len(b)):
            return False
        shared = len(np.intersect1d(a, b, assume_unique=True))
        return bool(shared >= self._threshold * (len(a) + len(b) - shared))

    def _buckets(self, grams: NDArray[np.uint32]) -> list[int]:
        """One number per band: a hash of the band's part of the signature, and of the band."""
        signature = np.full(len(self._factors), np.iinfo(np.uint64).max, np.uint64)
        for start in range(0, len(grams), _CHUNK):
            hashed = grams[start : start + _CHUNK].astype(np.uint64) * self._factors + self._shifts
            np.minimum(signature, _top(hashed).min(axis=1), out=signature)
        bands = np.arange(_BANDS, dtype=np.uint64)
        for column in signature.reshape(_BANDS, self._rows).T:
            bands = _mix(bands ^ column)
        buckets: list[int] = bands.tolist()
        return buckets


def _grams(text: str) -> NDArray[np.uint32]:
    """Sorted hashes of the word 3-grams of a text; of all its words, where it has fewer."""
    said = [crc32(word.encode("utf-8", "surrogatepass")) for word in words(text)]
    said += [0] * (3 - len(said))
    codes = np.array(said, np.uint64)
    mixed = _mix(_mix(_mix(codes[:-2]) ^ codes[1:-1]) ^ codes[2:])
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea & Flood 2014): each bit of a number changes every bit of the result half of the time."""
    numbers = numbers + _GOLDEN
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _MIX_1
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _MIX_2
    return numbers ^ (numbers >> np.uint64(31))


def _top(hashed: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The upper half of a product, which is the part of multiply-shift hashing that is evenly spread."""
    return hashed >> np.uint64(32)
