"""Claim-conditioned probability: how sure a model is of what it says, not of how it says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from layerlens.errors import InputError

Judge = Callable[[str, str], str]
"""From two texts to whether the first one entails or contradicts the second, or neither."""

VERDICTS = ("entailment", "contradiction", "neutral")


def relation(judge: Judge, one: str, other: str) -> str:
    """What a judge says of two texts in both directions, as one of `VERDICTS`.

    One entailment or contradiction stands against a neutral verdict; the two against each other
    are neutral. Texts that differ in spaces only are not judged.
    """
    if one.split() == other.split():
        return "entailment"
    said = {_asked(judge, one, other), _asked(judge, other, one)}
    firm = said - {"neutral"}
    return firm.pop() if len(firm) == 1 else "neutral"


def claim_probability(
    judge: Judge,
    before: str,
    said: tuple[str, float],
    others: Sequence[tuple[str, float]],
) -> float:
    """The probability of saying the same, among all that says the same or the contrary.

    Fadeeva et al. (2024), Fact-Checking the Output of Large Language Models via Token-Level
    Uncertainty Quantification, arXiv 2403.04696.

    Parameters
    ----------
    judge
        See `Judge`.
    before
        The text up to the token.
    said
        The token that is there, and its probability.
    others
        The tokens that could have been, and theirs.

    Returns
    -------
    float
        0 to 1; 1 where no other token contradicts it.

    Examples
    --------
    >>> def judge(one, other):
    ...     return "contradiction" if "Rome" in one + other else "entailment"
    >>> others = [(" paris", 0.1), (" Rome", 0.2)]
    >>> round(claim_probability(judge, "It is", (" Paris", 0.5), others), 2)
    0.75
    """
    same, contrary = said[1], 0.0
    for token, probability in others:
        found = relation(judge, before + said[0], before + token)
        same += probability * (found == "entailment")
        contrary += probability * (found == "contradiction")
    total = same + contrary
    return same / total if total > 0 else np.nan


def _asked(judge: Judge, one: str, other: str) -> str:
    found = judge(one, other)
    if found not in VERDICTS:
        raise InputError(
            f"judge said {found!r}; expected 'entailment', 'contradiction' or 'neutral'."
        )
    return found
