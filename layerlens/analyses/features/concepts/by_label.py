"""Concepts by the labels of texts: which matter for which, and which tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.contract.split import Split
from layerlens.analyses.information.nearest_means import Sides, dealt
from layerlens.errors import InputError

DRAWS = 200
"""Draws of shuffled labels."""
RARE = 0.05
"""Share of the draws of shuffled labels that lie above what is shown of them."""
_CHANCE = "chance (95th percentile)"
_BY, _TOLD = ("layer?", "label", "concept"), ("layer?", "label")
VARIABLES = {
    "label_importance": Variable(
        _BY, "float64", "1", "importance for the answers of texts with a label"
    ),
    "label_auc": Variable(
        _BY, "float64", "1", "AUC (texts set apart) of each concept for a label",
        formula="share of pairs of a text with the label and one without where the first has more",
    ),
    "label_spread": Variable(
        ("layer?", "concept"), "float64", "1", "difference in importance by label",
        formula="standard deviation over labels of the mean importance",
    ),
    "label_spread_shuffled": Variable(
        ("layer?", "concept"), "float64", "1", f"difference in importance by {_CHANCE}"
    ),
    "told_auc": Variable(
        _TOLD, "float64", "1", "AUC (texts set apart) of the concept chosen for a label"
    ),
    "told_auc_shuffled": Variable(
        _TOLD, "float64", "1", f"AUC (texts set apart) of {_CHANCE}"
    ),
    "told_concept": Variable(
        _TOLD, "int32", "1", "the concept chosen for a label, in the texts learned from"
    ),
}  # fmt: skip


class ByLabel:
    """Labels of texts, and what concepts have to do with them.

    Parameters
    ----------
    labels, groups
        Of each text.
    split
        Which texts were set apart.
    seed
        Of the draws of shuffled labels.

    Attributes
    ----------
    names
        The labels, in the order in which they are met.
    """

    def __init__(
        self, labels: Sequence[Any], groups: Sequence[Any] | None, split: Split, seed: int
    ) -> None:
        self.names = list(dict.fromkeys(labels))
        self.place = np.array([self.names.index(label) for label in labels])
        self._unit, self._split = _units(self.place, groups), split
        self._draw = np.random.default_rng(seed)

    def require(self, texts: Sequence[int], side: str) -> None:
        """Every label has a text on a side.

        Raises
        ------
        InputError
            One has none.
        """
        for number, name in enumerate(self.names):
            if number not in self.place[list(texts)]:
                raise InputError(
                    f"No {side} text with the label {name!r} has a token that counts: give more "
                    "texts of each label, or the texts without labels."
                )

    def importance(self, texts: Sequence[int], found: np.ndarray) -> dict[str, np.ndarray]:
        """What differs between labels in the importance ``[text, concept]`` for these texts."""
        every = np.arange(len(texts))
        place, unit = self.place[list(texts)], self._unit[list(texts)]
        by = _means(found, place, len(self.names))
        draws = [
            _means(found, dealt(place, unit, (every, every[:0]), self._draw), len(self.names))
            for _ in range(DRAWS)
        ]
        return {
            "label_importance": by,
            "label_spread": by.std(0),
            "label_spread_shuffled": np.quantile([one.std(0) for one in draws], 1 - RARE, axis=0),
        }

    def told(self, texts: Sequence[int], amounts: np.ndarray) -> dict[str, np.ndarray]:
        """How well the amounts ``[text, concept]`` in these texts tell their labels."""
        given = np.array(texts)
        apart = np.array([self._split.is_test(one) for one in texts])
        sides = np.flatnonzero(~apart), np.flatnonzero(apart)
        place, unit = self.place[given], self._unit[given]
        ranks = tuple(rankdata(amounts[side], axis=0) for side in sides)
        by = self._areas(ranks, place, sides)
        draws = [
            _told(self._areas(ranks, dealt(place, unit, sides, self._draw), sides))[1]
            for _ in range(DRAWS)
        ]
        chosen, told = _told(by)
        return {
            "label_auc": by[1],
            "told_concept": chosen + 1,
            "told_auc": told,
            "told_auc_shuffled": np.quantile(draws, 1 - RARE, axis=0),
        }

    def _areas(
        self, ranks: Sequence[np.ndarray], place: np.ndarray, sides: Sides
    ) -> list[np.ndarray]:
        """The areas of either side."""
        return [
            areas(own, place[side], len(self.names)) for own, side in zip(ranks, sides, strict=True)
        ]


def _told(by: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """For each label the concept that tells it best on one side, and its area on the other."""
    best = by[0].argmax(1)
    return best, by[1][np.arange(len(best)), best]


def areas(ranks: np.ndarray, place: np.ndarray, labels: int) -> np.ndarray:
    """Area under the ROC curve of each concept for each label: ``[label, concept]``.

    Parameters
    ----------
    ranks
        ``[text, concept]``: how much of it each text has, as ranks from 1, ties at their mean.
    place
        ``[text]``: number of the label of each; each label has a text, and not all.
    labels
        How many labels there are, two or more.

    Notes
    -----
    By the sum of ranks (Mann and Whitney 1947): the share of pairs of a text with the label and one
    without in which the first has more, ties half.

    Examples
    --------
    >>> ranks = np.array([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]])
    >>> areas(ranks, np.array([0, 1, 1]), 2).tolist()
    [[0.0, 0.5], [1.0, 0.5]]
    """
    own = (place == np.arange(labels)[:, None]).astype(np.float64)
    count = own.sum(1, keepdims=True)
    found: np.ndarray = (own @ ranks - count * (count + 1) / 2) / (count * (len(place) - count))
    return found


def _means(found: np.ndarray, place: np.ndarray, labels: int) -> np.ndarray:
    """Mean over the texts of each label: ``[label, concept]``; NaN where there is none yet."""
    sums = np.zeros((labels, found.shape[1]))
    np.add.at(sums, place, found)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = sums / np.bincount(place, minlength=labels)[:, None]
    return means


def _units(place: np.ndarray, groups: Sequence[Any] | None) -> np.ndarray:
    """What labels are dealt out by: groups whose texts have one label each, else texts."""
    texts = np.arange(len(place))
    if groups is None:
        return texts
    _, unit = np.unique(np.array([str(group) for group in groups]), return_inverse=True)
    one_each = all(len(set(place[unit == group].tolist())) == 1 for group in set(unit.tolist()))
    return unit if one_each else texts
