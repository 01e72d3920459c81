"""Altered copies of texts, the same for the same seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Rows of a keyboard; a typing error hits a neighbour in the same row."""

Random = np.random.Generator
T = TypeVar("T")


def altered_text(text: str, rate: float, random: Random) -> str:
    """Alter words of a text, and leave what stands between them.

    Each word is altered with probability ``rate``: it changes places with the next one, is left
    out, or gets a typing error (a letter becomes its neighbour on the keyboard); each is as
    likely. The last word left is never left out.
    """
    pieces = re.split(r"(\s+)", text)
    words = altered(pieces[0::2], rate, random, lambda word: _mistyped(word, random))
    gaps = pieces[1::2]
    return "".join(
        word + (gaps[number] if number < len(gaps) else "") for number, word in enumerate(words)
    ).strip()


def altered_ids(ids: Sequence[int], pool: Sequence[int], rate: float, random: Random) -> list[int]:
    """Alter tokens likewise; instead of a typing error one becomes a random token of ``pool``.

    The first token stays as it is: it may be the one that all texts begin with.
    """
    return [*ids[:1], *altered(ids[1:], rate, random, lambda _: int(random.choice(pool)))]


def altered(items: Sequence[T], rate: float, random: Random, wrong: Callable[[T], T]) -> list[T]:
    """Swap, leave out or spoil each with probability ``rate``."""
    found: list[T] = []
    items = list(items)
    for place in range(len(items)):
        item = items[place]
        how = random.integers(3) if random.random() < rate else None
        last = place + 1 == len(items)
        if how == 0 and not last:
            item, items[place + 1] = items[place + 1], item
        elif how == 1 and not (last and not found):
            continue
        elif how == 2:
            item = wrong(item)
        found.append(item)
    return found


def _mistyped(word: str, random: Random) -> str:
    places = [place for place, letter in enumerate(word) if any(letter.lower() in k for k in KEYS)]
    if not places:
        return word
    place = int(random.choice(places))
    letter = word[place]
    row = next(keys for keys in KEYS if letter.lower() in keys)
    at = row.index(letter.lower())
    near = row[max(at - 1, 0) : at] + row[at + 1 : at + 2]
    typed = near[int(random.integers(len(near)))]
    return word[:place] + (typed.upper() if letter.isupper() else typed) + word[place + 1 :]
