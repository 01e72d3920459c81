"""What a token is for: the first of a text, a separator, punctuation, or any other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from unicodedata import category

KINDS = ("first", "separator", "punctuation", "other")
"""Each token is of the first of these that fits it."""

DELIMITERS = ("separator", "punctuation")
"""Kinds that are delimiters."""


def token_kinds(ids: Sequence[int], strings: Sequence[str], special: Collection[int]) -> list[str]:
    """The kind of each token of a text.

    ``first`` is the first token, whatever it is (in most models BOS); ``separator`` a special
    token of the tokenizer anywhere else, or a line break; ``punctuation`` a token whose
    characters, spaces aside, are all punctuation in Unicode.

    Parameters
    ----------
    ids, strings
        Of the tokens of one text, in their order, without padding.
    special
        Ids of the tokenizer's special tokens.

    Examples
    --------
    >>> token_kinds([1, 7, 8, 9, 2], ["<s>", "No", ",", chr(10), "</s>"], {1, 2})
    ['first', 'other', 'punctuation', 'separator', 'separator']
    """
    return [
        "first" if place == 0 else _kind(index, string, special)
        for place, (index, string) in enumerate(zip(ids, strings, strict=True))
    ]


def _kind(index: int, string: str, special: Collection[int]) -> str:
    word = string.strip()
    if index in special or (not word and "\n" in string):
        return "separator"
    return "punctuation" if word and all(category(c)[0] == "P" for c in word) else "other"
