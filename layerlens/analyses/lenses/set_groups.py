"""What is looked up behind each text: its sets, what they share, and two controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.lenses.token_sets import (
    RANDOM,
    SHARED,
    Said,
    Speller,
    TokenSets,
    random_sets,
)

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


class Groups:
    """Groups of what could be said behind each text.

    They are numbered alike for all texts: the sets, what these share, random sets, and where texts
    have sets of their own those of the next text, without what is in the text's own.

    Parameters
    ----------
    model
        Whose tokens are meant.
    given
        Of each text, the sets as they were given.
    mode
        See `Speller`.

    Attributes
    ----------
    names
        Of the sets.
    texts
        Of each text, its sets.
    own
        Whether texts have sets of their own.
    d_vocab
        How many tokens the model can be fed and can say.
    """

    def __init__(self, model: LensModel, given: Sequence[Mapping[str, Any]], mode: str) -> None:
        speller = Speller(model.vocabulary, mode)
        known = {id(one): speller.sets(one) for one in {id(one): one for one in given}.values()}
        self.names = [str(name) for name in given[0]]
        self.texts: list[TokenSets] = [known[id(one)] for one in given]
        self.own = len(known) > 1
        self.d_vocab = min(model.d_vocab, model.d_vocab_in)
        drawn = {key: random_sets(sets, self.d_vocab, seed=0) for key, sets in known.items()}
        self._random = [drawn[id(one)] for one in given]

    @cached_property
    def lines(self) -> list[str]:
        """Names of the curves: the sets, what they share if they do, the control."""
        shared = [SHARED] if any(sets.shared for sets in self.texts) else []
        return [*self.names, *shared, RANDOM]

    @cached_property
    def draws(self) -> int:
        """How many random sets each text has: as many as the one that has fewest."""
        return min(map(len, self._random))

    @cached_property
    def each(self) -> list[list[list[Said]]]:
        """The groups of each text."""
        if not self.own:
            return [self._of(0)] * len(self.texts)
        return [[*self._of(text), *self._following(text)] for text in range(len(self.texts))]

    @property
    def count(self) -> int:
        """How many groups a text has."""
        return len(self.each[0])

    def _of(self, text: int) -> list[list[Said]]:
        sets = self.texts[text]
        return [*sets.sets.values(), sets.shared, *self._random[text][: self.draws]]

    def _following(self, text: int) -> list[list[Said]]:
        """The sets of the next text, without what belongs to this one."""
        sets, following = self.texts[text], self.texts[(text + 1) % len(self.texts)]
        mine = {said for each in [*sets.sets.values(), sets.shared] for said in each}
        return [[said for said in each if said not in mine] for each in following.sets.values()]

    def sizes(self) -> np.ndarray:
        """``[text, group]`` how much is in each group."""
        return np.array([[*map(len, groups)] for groups in self.each])

    @property
    def fixed(self) -> slice:
        """The groups that are lines of their own."""
        return slice(0, len(self.lines) - 1)

    @property
    def random(self) -> slice:
        """The random sets, which are one line."""
        return slice(len(self.names) + 1, len(self.names) + 1 + self.draws)

    @property
    def following(self) -> slice:
        """The sets of the next text."""
        return slice(self.random.stop, self.count)

    def size(self) -> np.ndarray:
        """``[line]`` how much is in a text's set, on the mean over texts."""
        return self._of_lines(len)

    def chance(self) -> np.ndarray:
        """``[line]`` its probability where every token is as likely as any other."""
        return self._of_lines(lambda each: sum(self.d_vocab ** -len(said) for said in each))

    def _of_lines(self, measure: Callable[[Sequence[Said]], float]) -> np.ndarray:
        places = [*range(len(self.lines) - 1), self.random.start]
        table = [[measure(groups[place]) for place in places] for groups in self.each]
        found: np.ndarray = np.array(table, dtype=float).mean(0)
        return found
