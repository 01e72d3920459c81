"""How likely a token is behind another one, counted on texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

DISCOUNT = 0.75
"""What is taken off each count of a pair and given to the pairs that were never seen."""
SMOOTHINGS = ("backoff", "add")


class Bigrams:
    """Counts of tokens and of pairs of neighbours, as probabilities.

    The unigram model is ``P(b) = (c(b) + alpha) / (N + alpha V)``. The bigram model is, by ``add``,
    ``P(b | a) = (c(a b) + alpha) / (c(a) + alpha V)``, and by ``backoff`` (absolute
    discounting: Ney, Essen and Kneser, On structuring probabilistic dependences in stochastic
    language modelling, 1994) ``max(c(a b) - D, 0) / c(a) + D n(a) / c(a) P(b)``,
    with ``n(a)`` the number of different tokens behind ``a``; ``P(b)`` where ``a`` was never seen.

    Parameters
    ----------
    rows
        Token ids of the texts that are counted.
    vocabulary
        How many tokens there are, ``V``.
    smoothing
        ``"backoff"`` or ``"add"``.
    alpha
        What is added to every count.

    Examples
    --------
    >>> counted = Bigrams([[0, 1, 0, 1, 0, 2]], vocabulary=3, smoothing="add", alpha=1.0)
    >>> counted.behind(0).tolist()
    [0.16666666666666666, 0.5, 0.3333333333333333]
    """

    def __init__(
        self, rows: Iterable[Sequence[int]], vocabulary: int, smoothing: str, alpha: float
    ) -> None:
        self.vocabulary, self.smoothing, self.alpha = vocabulary, smoothing, alpha
        self.tokens: Counter[int] = Counter()
        self.pairs: Counter[tuple[int, int]] = Counter()
        for row in rows:
            self.tokens.update(row)
            self.pairs.update(pairwise(row))
        self._first: Counter[int] = Counter()
        self._kinds: Counter[int] = Counter()
        for (token, _), count in self.pairs.items():
            self._first[token] += count
            self._kinds[token] += 1

    def alone(self, tokens: np.ndarray) -> np.ndarray:
        """``P(b)`` of each token, ``[n]`` float64."""
        counts = np.array([self.tokens[token] for token in tokens.tolist()], dtype=np.float64)
        total = self.tokens.total() + self.alpha * self.vocabulary
        return np.asarray((counts + self.alpha) / total)

    def after(self, tokens: np.ndarray, following: np.ndarray) -> np.ndarray:
        """``P(b | a)`` of each pair, ``[n]`` float64."""
        both = zip(tokens.tolist(), following.tolist(), strict=True)
        pairs = np.array([self.pairs[pair] for pair in both], dtype=np.float64)
        first, kinds = (
            np.array([counts[token] for token in tokens.tolist()], dtype=np.float64)
            for counts in (self._first, self._kinds)
        )
        if self.smoothing == "add":
            return np.asarray((pairs + self.alpha) / (first + self.alpha * self.vocabulary))
        seen = np.maximum(first, 1)
        kept = np.maximum(pairs - DISCOUNT, 0) / seen
        left = np.where(first > 0, DISCOUNT * kinds / seen, 1.0)
        return np.asarray(kept + left * self.alone(following))

    def behind(self, token: int) -> np.ndarray:
        """``P(b | a)`` of every ``b``, ``[vocabulary]`` float64."""
        return self.after(np.full(self.vocabulary, token), np.arange(self.vocabulary))

    def draw(self, count: int, seed: Sequence[int]) -> np.ndarray:
        """Tokens as the counted texts have them, at random: ``[count]`` int64."""
        known = np.array(sorted(self.tokens), dtype=np.int64)
        share = np.array([self.tokens[token] for token in known.tolist()], dtype=np.float64)
        drawn = np.random.default_rng(list(seed)).choice(known, count, p=share / share.sum())
        return np.asarray(drawn)
