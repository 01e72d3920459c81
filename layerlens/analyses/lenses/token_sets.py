"""From words to what a model would have to say: first tokens, or whole words token by token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.options import nearest
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.translation_prompts import languages
from layerlens.errors import InputError
from layerlens.model.integers import is_whole

if TYPE_CHECKING:
    from layerlens.model.vocabulary import Vocabulary

Said = tuple[int, ...]
"""Tokens that are said one after the other."""

MODES = ("first_token", "prefix", "word")
SHARED, RANDOM = "shared", "random"
"""Names of the lines beside those of the sets."""
DRAWS = 100
"""Random sets that the control is drawn from, at most."""
DRAWN_TOKENS = 200_000
"""Tokens of all random sets of a text together, at most, where these are large."""


@dataclass(frozen=True)
class TokenSets:
    """The sets of one text, none of which holds what another one holds.

    Attributes
    ----------
    sets
        Name to what belongs to it alone.
    shared
        What belonged to several, and was taken from all of them.
    within
        What begins with another one, and so is said when that is; it was left out.
    """

    sets: dict[str, list[Said]]
    shared: list[Said]
    within: list[Said]


def sets_given(sets: Any, texts: int) -> list[Mapping[str, Any]]:
    """The sets of each text as they were given; the nouns of all listed languages for None.

    Raises
    ------
    InputError
        They are no mappings of a name to words, or not of the same names for every text.
    """
    if sets is None:
        sets = {name: list(language.nouns) for name, language in languages().items()}
    found = one_each(sets, texts, "sets")
    for one in found:
        if not isinstance(one, Mapping) or not one:
            raise InputError(
                f"sets is {sets!r}; expected a name to words or token ids for each set, such as "
                "{'French': ['eau'], 'English': ['water']}, or a list of these with one a text."
            )
        if list(one) != list(found[0]):
            raise InputError(
                f"The sets of one text are {', '.join(map(str, found[0]))} and those of another "
                f"{', '.join(map(str, one))}: give every text the same names in the same order."
            )
    if taken := {SHARED, RANDOM} & set(found[0]):
        raise InputError(f"A set cannot be called {taken.pop()!r}, as one of the controls is.")
    return found


class Speller:
    """How a tokenizer would begin to say a word.

    Parameters
    ----------
    vocabulary
        Of the model.
    mode
        ``first_token``, ``prefix`` or ``word``.

    Raises
    ------
    InputError
        There is no such mode.
    """

    def __init__(self, vocabulary: Vocabulary, mode: str) -> None:
        if mode not in MODES:
            raise nearest(str(mode), MODES, "mode")
        self.vocabulary = vocabulary
        self.mode = mode
        self._unknown = getattr(vocabulary.tokenizer, "unk_token_id", None)
        self._of_bytes: dict[bytes, list[int]] = {}
        if mode == "prefix":
            for index in range(vocabulary.size):
                self._of_bytes.setdefault(vocabulary.token_bytes(index), []).append(index)

    def sets(self, given: Mapping[str, Any]) -> TokenSets:
        """What belongs to each set alone, and what several share."""
        found = {
            name: list(dict.fromkeys(said for word in _listed(words, name) for said in self(word)))
            for name, words in given.items()
        }
        count: dict[Said, int] = {}
        for name in found:
            for said in found[name]:
                count[said] = count.get(said, 0) + 1
        within = [s for s in count if any(s[:end] in count for end in range(1, len(s)))]
        for said in within:
            del count[said]
        own = {name: [s for s in each if count.get(s) == 1] for name, each in found.items()}
        return TokenSets(own, [said for said, sets in count.items() if sets > 1], within)

    def __call__(self, word: str | int) -> list[Said]:
        """What a word, or the id of a token, may begin with or be.

        Raises
        ------
        InputError
            The tokenizer or the head lacks it.
        """
        if is_whole(word):
            return [(self.vocabulary.find(word),)]
        if not isinstance(word, str) or not word.strip():
            raise InputError(f"A set holds words and token ids, not {word!r}.")
        if self.vocabulary.tokenizer is None:
            raise InputError(f"This model has no tokenizer: give token ids in place of {word!r}.")
        found = self._prefixes(word) if self.mode == "prefix" else self._written(word)
        kept = [said for said in found if max(said) < self.vocabulary.size]
        if not kept:
            raise InputError(
                f"{word!r} cannot be said with this vocabulary: leave it out, or give token ids."
            )
        return list(dict.fromkeys(kept))

    def _written(self, word: str) -> Iterator[Said]:
        """The word's tokens by itself, behind a space and behind a quote; or only the first."""
        quote = self.vocabulary.encode('"')
        behind = self.vocabulary.encode(f'"{word}')
        quoted = behind[len(quote) :] if behind[: len(quote)] == quote else []
        for ids in (self.vocabulary.encode(word), self.vocabulary.encode(f" {word}"), quoted):
            if not ids or self._unknown in ids:
                continue
            if self.mode == "word":
                yield tuple(ids)
            elif self.vocabulary.token_bytes(ids[0]).strip():  # a space alone begins any word
                yield (ids[0],)

    def _prefixes(self, word: str) -> Iterator[Said]:
        """Every token that the word begins with, with or without a space before it."""
        whole = word.strip().encode()
        for end in range(1, len(whole) + 1):
            for start in (b"", b" "):
                for index in self._of_bytes.get(start + whole[:end], ()):
                    yield (index,)


def random_sets(sets: TokenSets, d_vocab: int, seed: int) -> list[list[Said]]:
    """Sets of random tokens, as many and as long as those of the largest set.

    Of words, which each take a pass of their own, one set.
    """
    largest = max(sets.sets.values(), key=len)
    random = np.random.default_rng(seed)
    if max(map(len, largest), default=1) > 1:
        return [[tuple(random.integers(0, d_vocab, len(said)).tolist()) for said in largest]]
    draws = min(DRAWS, max(5, DRAWN_TOKENS // max(1, len(largest))))
    drawn = [random.choice(d_vocab, len(largest), replace=False).tolist() for _ in range(draws)]
    return [[(index,) for index in ids] for ids in drawn]


def _listed(words: Any, name: str) -> Sequence[Any]:
    """The words of a set; one alone is one."""
    if isinstance(words, str) or is_whole(words):
        return [words]
    words = words.tolist() if hasattr(words, "tolist") else words
    if not isinstance(words, list | tuple | set | frozenset | range) or not words:
        raise InputError(f"The set {name!r} is {words!r}; expected words or token ids.")
    return list(words)
