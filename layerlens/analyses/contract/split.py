"""Texts set apart to test on what was learned from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerlens.errors import InputError


@dataclass(frozen=True)
class Split:
    """Which texts teach and which test; never tokens, which know their neighbours.

    Attributes
    ----------
    train, test
        Numbers of texts, ascending.
    by
        ``"text"``, or ``"group"`` where texts have groups, which stay whole.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    by: str

    def is_test(self, text: int) -> bool:
        """Whether a text is one to test on."""
        return text in self.test


def split_texts(groups: Sequence[Any], seed: int, test: float) -> Split:
    """Draw which texts, or which groups of texts, are set apart.

    Parameters
    ----------
    groups
        Of each text; all None where texts have none, so that each is a group by itself.
    seed
        Of the draw.
    test
        Share of the texts or groups to set apart, between 0 and 1.

    Raises
    ------
    InputError
        When the share does not fit, some texts only have a group, or a side would be empty.

    Examples
    --------
    >>> split_texts(["a", "a", "b", "b", "b"], seed=0, test=0.5).train
    (2, 3, 4)
    """
    if isinstance(test, bool) or not 0 < test < 1:
        raise InputError(f"test is {test!r}; expected a share of the texts between 0 and 1.")
    without = [number for number, group in enumerate(groups) if group is None]
    by = "text" if len(without) == len(groups) else "group"
    if by == "group" and without:
        raise InputError(f"Text {without[0]} has no group, but others have: give each one.")
    keys = list(range(len(groups))) if by == "text" else list(groups)
    units = list(dict.fromkeys(keys))
    count = round(test * len(units))
    if not 0 < count < len(units):
        empty = "test" if count == 0 else "training"
        raise InputError(
            f"Of {len(units)} {by}{'s' * (len(units) != 1)}, a share of {test:g} leaves none for "
            f"{empty}: give more, or another share."
        )
    drawn = np.random.default_rng(seed).permutation(len(units))[:count]
    apart = {units[place] for place in drawn.tolist()}
    sides = [[n for n, key in enumerate(keys) if (key in apart) is side] for side in (False, True)]
    return Split(tuple(sides[0]), tuple(sides[1]), by)


def split_labelled(groups: Sequence[Any], labels: Sequence[Any], seed: int) -> Split:
    """Deal texts into halves that have about as many texts of each label.

    In an order that is drawn, each text or group goes to the half that has fewer of its labels, so
    that a label of two texts has one in each.

    Parameters
    ----------
    groups
        Of each text; all None where texts have none.
    labels
        Of each text.
    seed
        Of the order.

    Raises
    ------
    InputError
        When a half has no text of some label, because one group has all of them.

    Examples
    --------
    >>> found = split_labelled([None] * 6, list("aabbcc"), seed=0)
    >>> ["".join("aabbcc"[n] for n in side) for side in (found.train, found.test)]
    ['abc', 'abc']
    """
    by = "text" if all(group is None for group in groups) else "group"
    keys = list(range(len(groups))) if by == "text" else list(groups)
    names, place = list(dict.fromkeys(labels)), np.empty(len(labels), dtype=int)
    place[:] = [names.index(label) for label in labels]
    units = list(dict.fromkeys(keys))
    sizes = np.zeros((2, len(names)))
    sides: tuple[list[int], list[int]] = ([], [])
    for unit in np.random.default_rng(seed).permutation(len(units)).tolist():
        texts = [n for n, key in enumerate(keys) if key == units[unit]]
        counts = np.bincount(place[texts], minlength=len(names))
        side = int((sizes @ counts).argmin())
        sizes[side] += counts
        sides[side].extend(texts)
    if (sizes == 0).any():
        lacking = names[int((sizes == 0).any(0).argmax())]
        raise InputError(
            f"All texts labelled {lacking!r} are of one {by}, so that none can be set apart from "
            "the others: give more."
        )
    return Split(tuple(sorted(sides[0])), tuple(sorted(sides[1])), by)
