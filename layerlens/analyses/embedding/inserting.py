"""Tokens that a text can hold, put into texts at their beginning, their end, or anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

PLACES = ("at the beginning", "at the end", "anywhere")
"""Where a token is put in; anywhere is one more random place for each time."""

Row = Sequence[int]


def reachable(model: LensModel) -> list[int]:
    """Ids of the tokens that a text can become: decoded and read again they are themselves.

    Special tokens, parts of characters, blanks and, of most tokenizers, pieces that only stand
    inside a word are left out. Without a tokenizer every row of the embedding counts.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        return list(range(model.d_vocab_in))
    special = model.vocabulary.special
    known = [
        index
        for index in range(model.d_vocab_in)
        if index not in special and model.vocabulary.has(index)
    ]
    texts = tokenizer.batch_decode([[index] for index in known])
    again = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [
        index
        for index, text, ids in zip(known, texts, again, strict=True)
        if list(ids) == [index] and text.strip() and "\ufffd" not in text
    ]


def inside(row: Row, special: frozenset[int]) -> tuple[int, int]:
    """Where what was written begins and ends, between special tokens that were put around it.

    Examples
    --------
    >>> inside([101, 5, 6, 102], frozenset({101, 102}))
    (1, 3)
    """
    start, end = 0, len(row)
    while start < end and row[start] in special:
        start += 1
    while end > start and row[end - 1] in special:
        end -= 1
    return start, end


def with_token(
    row: Row, token: int, most: int, special: frozenset[int], seed: int
) -> list[list[list[int]]]:
    """The row with a token put in 1, 2, ... ``most`` times, ``[place][times - 1]``.

    Parameters
    ----------
    seed
        Of the places where it is put anywhere: the same for every token.

    Examples
    --------
    >>> with_token([101, 5, 102], 9, 2, frozenset({101, 102}), 0)[0]
    [[101, 9, 5, 102], [101, 9, 9, 5, 102]]
    """
    start, end = inside(row, special)
    before, middle, after = list(row[:start]), list(row[start:end]), list(row[end:])
    random, grown, anywhere = np.random.default_rng(seed), list(middle), []
    for _ in range(most):
        place = int(random.integers(0, len(grown) + 1))
        grown = [*grown[:place], token, *grown[place:]]
        anywhere.append([*before, *grown, *after])
    times = range(1, most + 1)
    return [
        [[*before, *[token] * n, *middle, *after] for n in times],
        [[*before, *middle, *[token] * n, *after] for n in times],
        anywhere,
    ]
