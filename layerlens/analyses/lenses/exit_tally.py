"""What early exits cost and save: counts over tokens, beside exits that look at no token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerlens.analyses.lenses.exits import decayed, exit_points, exit_scores

EXITS = ("rule", "random layers", "one layer")
"""The rule and its controls: the same exits dealt to other tokens; one layer, the same mean."""

Numbers = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class When:
    """When a token exits.

    Attributes
    ----------
    rule, thresholds
        Whose score has to exceed what.
    decay
        How fast a threshold falls along a text.
    min_layers
        How many layers run before a score counts.
    """

    rule: str
    thresholds: Sequence[float]
    decay: float = 0.0
    min_layers: int = 0


class ExitTally:
    """Counts for every threshold of one rule; they do not grow with the tokens.

    Parameters
    ----------
    when
        When a token exits.
    depths
        ``[point]`` blocks that have run at each point; the last one is the model's own end.
    texts
        How many texts there are.
    d_vocab
        Tokens of the vocabulary.
    """

    def __init__(self, when: When, depths: NDArray[Any], texts: int, d_vocab: int) -> None:
        self.when, self.depths, self.d_vocab = when, depths, d_vocab
        rows, points = len(when.thresholds), len(depths)
        self.tokens, self.known = 0, 0
        self.exits = np.zeros((rows, points))
        self.agree, self.change = np.zeros(rows), np.zeros(rows)
        self.point_agree, self.point_change = np.zeros(points), np.zeros(points)
        self.first, self.stable = np.zeros(points), np.zeros(points)
        self.read = np.zeros(texts, dtype=bool)
        self.differs = np.zeros((rows, texts), dtype=bool)
        self.later = 0

    def add(self, numbers: Numbers, place: NDArray[Any], text: NDArray[Any]) -> None:
        """Take in some tokens.

        Parameters
        ----------
        numbers
            What `exit_scores` takes and ``logprob`` (of the next token of the text, NaN where
            there is none), each ``[point, n]``.
        place, text
            ``[n]`` where in its text a token stands, 0 to 1, and the number of its text.
        """
        same = numbers["top_id"] == numbers["top_id"][-1]
        change = numbers["logprob"] - numbers["logprob"][-1]
        known = np.isfinite(change[-1])
        count, points = len(text), len(self.depths)
        self.tokens, self.known = self.tokens + count, self.known + int(known.sum())
        self.read[text] = True
        self.point_agree += same.sum(1)
        self.point_change += change[:, known].sum(1)
        stays = np.logical_and.accumulate(same[::-1])[::-1]
        self.first += np.bincount(same.argmax(0), minlength=points)
        self.stable += np.bincount(stays.argmax(0), minlength=points)
        score = exit_scores(self.when.rule, numbers, self.d_vocab)
        score = np.where(self.depths[:, None] < self.when.min_layers, np.nan, score)
        each, before = np.arange(count), np.zeros(count, dtype=np.intp)
        for row in np.argsort(self.when.thresholds):
            threshold = decayed(self.when.thresholds[row], place, self.when.decay)
            exits = exit_points(score, threshold)
            self.later += int((exits < before).sum())
            before = exits
            agrees = same[exits, each]
            self.exits[row] += np.bincount(exits, minlength=points)
            self.agree[row] += agrees.sum()
            self.change[row] += change[exits, each][known].sum()
            self.differs[row, text[~agrees]] = True

    def means(self) -> dict[str, NDArray[Any]]:
        """The arrays of the answer, for what was read so far."""
        share = self.exits / self.tokens
        mean = share @ self.depths
        by_point = {"agreement": self.point_agree / self.tokens}
        own = {"agreement": self.agree / self.tokens}
        nothing = np.full(1, np.nan)
        by_point["change"] = self.point_change / self.known if self.known else nothing
        own["change"] = self.change / self.known if self.known else nothing
        found = {name: self._beside(own[name], by_point[name], share, mean) for name in own}
        right = 1 - self.differs[:, self.read].mean(1)
        steps = np.argsort(mean, kind="stable")
        at_depth = [
            np.interp(self.depths, mean[steps], rows[steps], left=np.nan, right=np.nan)
            for rows in found["agreement"][:2]
        ]
        return {
            "agreement": found["agreement"],
            "logprob_change": found["change"],
            "text_agreement": right,
            "mean_layers": mean,
            "saved": 1 - mean / self.depths[-1],
            "exit_share": share,
            "agreement_at_depth": np.stack([*at_depth, by_point["agreement"]]),
            "oracle_share": self.first / self.tokens,
            "oracle_layers": self.first @ self.depths / self.tokens,
            "oracle_stable_layers": self.stable @ self.depths / self.tokens,
        }

    def _beside(
        self, own: NDArray[Any], by_point: NDArray[Any], share: NDArray[Any], mean: NDArray[Any]
    ) -> NDArray[Any]:
        """A number of the rule, ``[threshold]``, with those of its two controls."""
        by_point = np.broadcast_to(by_point, self.depths.shape)
        one_layer = np.interp(mean, self.depths, by_point)
        return np.stack([np.broadcast_to(own, mean.shape), share @ by_point, one_layer])
