"""At which point a model could have stopped for a token, by a rule and its threshold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True)
class Rule:
    """One way to decide that a prediction is ready.

    Attributes
    ----------
    words
        What its score is.
    threshold
        What the score has to exceed unless another one is given.
    low, high
        Between which thresholds are worth trying.
    step
        The smallest change of one that is.
    """

    words: str
    threshold: float
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01

    def thresholds(self) -> tuple[float, ...]:
        """Return at most 21 thresholds from `low` to `high`, evenly apart."""
        count = min(21, round((self.high - self.low) / self.step) + 1)
        return tuple(np.linspace(self.low, self.high, count).round(4).tolist())


RULES = {
    "margin": Rule("probability of the top token minus that of the second", 0.5),
    "confidence": Rule("probability of the top token", 0.75),
    "entropy": Rule("1 - entropy / ln(vocabulary)", 0.8),
    "state": Rule("cosine of the state with the one that its block was given", 0.98, 0.8, 1, 0.002),
    "patience": Rule("points in a row with the same top token", 2, 0, 10, 1),
}
"""Scores of Schuster et al. (CALM: ``margin``, which they call confidence, and ``state``), Kaya et
al. (shallow-deep networks: ``confidence``) and Zhou et al. (PABEE: ``patience``); that of
``entropy`` is our own scaling of DeeBERT's. The thresholds are ours."""


def rules_told() -> str:
    """Every rule as JSON, for a view to offer: its name, words and thresholds."""
    return json.dumps([{"name": name, **asdict(rule)} for name, rule in RULES.items()])


def require_rule(rule: str, threshold: float | None) -> float:
    """The threshold of a rule, its own where none is given.

    Raises
    ------
    InputError
        There is no such rule.
    """
    if rule not in RULES:
        raise InputError(f"rule is {rule!r}; expected one of {', '.join(RULES)}.")
    return RULES[rule].threshold if threshold is None else float(threshold)


def require_min_layers(model: LensModel, min_layers: int) -> None:
    """Refuse a number of blocks that always run which the model does not have.

    Raises
    ------
    InputError
        It is below 0, or above the number of blocks.
    """
    if not 0 <= min_layers <= model.n_layers:
        raise InputError(f"min_layers is {min_layers}; expected 0 to {model.n_layers}.")


def exit_scores(rule: str, numbers: Mapping[str, NDArray[Any]], d_vocab: int) -> NDArray[Any]:
    """Score of a rule at every point.

    Parameters
    ----------
    rule
        Of `RULES`.
    numbers
        ``margin``, ``probability`` (of the top token), ``entropy``, ``state_cosine`` and
        ``top_id``, each ``[point, n]``.
    d_vocab
        Tokens of the vocabulary.

    Returns
    -------
    ndarray
        ``[point, n]`` float.
    """
    if rule == "margin":
        return numbers["margin"]
    if rule == "confidence":
        return numbers["probability"]
    if rule == "entropy":
        found: NDArray[Any] = 1 - numbers["entropy"] / np.log(max(2, d_vocab))
        return found
    if rule == "state":
        return numbers["state_cosine"]
    top = numbers["top_id"]
    score = np.ones(top.shape)
    for point in range(1, len(top)):
        score[point] += np.where(top[point] == top[point - 1], score[point - 1], 0)
    return score


def exit_points(score: NDArray[Any], threshold: float | NDArray[Any]) -> NDArray[np.intp]:
    """First point whose score exceeds a threshold; where none does the last, the model's own.

    A threshold may be one number, or one for each of the ``n`` tokens of ``score`` [point, n].

    Examples
    --------
    >>> exit_points(np.array([[0.1, 0.2], [0.7, 0.3], [0.9, 0.4]]), 0.5).tolist()
    [1, 2]
    """
    ready = score > threshold  # False for NaN
    ready[-1] = True
    found: NDArray[np.intp] = ready.argmax(0)
    return found


def decayed(threshold: float, place: NDArray[Any], decay: float) -> NDArray[np.float64]:
    """A threshold that falls along a text, as in CALM.

    Parameters
    ----------
    threshold
        At the beginning of a text.
    place
        ``[n]`` where in its text each token stands, 0 to 1.
    decay
        How fast it falls to nine tenths: ``threshold (0.9 + 0.1 exp(-decay place))``; 0: not.

    Examples
    --------
    >>> decayed(0.5, np.array([0.0, 1.0]), 4.0).round(4).tolist()
    [0.5, 0.4509]
    """
    found: NDArray[np.float64] = threshold * (0.9 + 0.1 * np.exp(-decay * place))
    return found
