"""How near lenses come to the model's own answer: sums over texts, means and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.divergence import Reference
from layerlens.analyses.contract.contract import Variable
from layerlens.metrics.batch import GROUPS
from layerlens.metrics.means import bootstrap, ratio

if TYPE_CHECKING:
    from layerlens.analyses.lenses.fitting.documents import Seen
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.head_rows import Head

MEASURES = ("kl", "ce", "top1")
UNIFORM = "uniform"
"""The control: a guess that gives every token the same probability."""

_CELL = ("lens", "point")
_BASE = {
    "kl": Variable(_CELL, "float32", "nats", "KL divergence, final from this lens"),
    "ce": Variable(_CELL, "float32", "nats", "cross-entropy of the next token"),
    "top1": Variable(_CELL, "float32", "1", "share of tokens with the final answer on top"),
}
VARIABLES = _BASE | {
    f"{name}_{end}": Variable(_CELL, "float32", v.units, f"{v.long_name}, {words} end of 95 %")
    for name, v in _BASE.items()
    for end, words in (("low", "lower"), ("high", "upper"))
}
"""Means over tokens, with the 95 % interval over texts."""


class Judge:
    """The final answers of some tokens, which lenses are compared with.

    Parameters
    ----------
    model, head
        Whose answers.
    final
        ``[n, d_model]`` states after the last block.
    target
        ``[n]`` next tokens, -1 where there is none.
    tick
        Called before each product with the head; may raise to stop.
    """

    def __init__(
        self,
        model: LensModel,
        head: Head,
        final: Tensor,
        target: Tensor,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._head, self._tick = head, tick
        self._target = target.to(head.device)
        self._chosen = self._target.clamp_min(0).unsqueeze(-1)
        x = head.accept(model.head_input(final))
        self._final, extras = head.reduce_final(x, self._chosen, 1, tick)
        self._reference = Reference(head, x, self._final.log_norm, extras)

    def measure(self, x: Tensor) -> dict[str, Tensor]:
        """Each measure for each token, ``[n]``, where the head is given ``x``."""
        x = self._head.accept(x)
        found = self._head.reduce(x, self._chosen, 1, self._tick)
        kl = self._reference.kl([x], found.log_norm.unsqueeze(0), self._tick)[0]
        same = found.top_ids[:, 0] == self._final.top_ids[:, 0]
        ce = self._known(found.log_norm - found.chosen[:, 0])
        return {"kl": kl, "ce": ce, "top1": same.to(kl.dtype)}

    def uniform(self) -> dict[str, Tensor]:
        """The same for a guess that gives each of ``V`` tokens ``1/V``: ``KL = ln V - entropy``."""
        guess = torch.full_like(self._final.entropy, float(np.log(self._head.d_vocab)))
        return {
            "kl": guess - self._final.entropy,
            "ce": self._known(guess),
            "top1": torch.full_like(guess, 1 / self._head.d_vocab),
        }

    def _known(self, values: Tensor) -> Tensor:
        return values.masked_fill(self._target < 0, float("nan"))


class Tally:
    """Sums of measures over the tokens of each group of texts, ``[*cells, GROUPS]``.

    Parameters
    ----------
    cells
        How many numbers are kept of each measure, such as one a point.
    """

    def __init__(self, *cells: int) -> None:
        shape = (*cells, GROUPS)
        self._sums = {name: np.zeros(shape) for name in MEASURES}
        self._counts = {name: np.zeros(shape) for name in MEASURES}

    def add(self, cell: tuple[int, ...], measured: Mapping[str, Tensor], text: Tensor) -> None:
        """Take in the numbers of some tokens, each with the number of its text."""
        group = (text % GROUPS).numpy()
        for name, values in measured.items():
            array = values.double().cpu().numpy()
            known = np.isfinite(array)
            for kept, weights in ((self._sums, array[known]), (self._counts, None)):
                kept[name][cell] += np.bincount(group[known], weights, GROUPS)

    def merge(self, other: Tally) -> None:
        """Take in what another one of the same cells saw of other tokens."""
        for mine, theirs in ((self._sums, other._sums), (self._counts, other._counts)):
            for name in MEASURES:
                mine[name] += theirs[name]

    def means(self) -> dict[str, np.ndarray]:
        """Means over tokens and the ends of their intervals over texts, by name; NaN: not known."""
        found = {}
        for name in MEASURES:
            both = {"sum": self._sums[name], "count": self._counts[name]}
            sums = {part: np.moveaxis(array, -1, 0) for part, array in both.items()}
            found[name] = ratio({part: array.sum(0) for part, array in sums.items()})
            found[f"{name}_low"], found[f"{name}_high"] = bootstrap(ratio, sums)
        return found


def judge_all(
    tally: Tally, judge: Judge, readers: Mapping[str, Reader], points: Sequence[Point], found: Seen
) -> float:
    """Take in what each lens, and the control behind them, makes of each point.

    Returns
    -------
    float
        The smallest divergence of a token, nats.
    """
    lowest = 0.0
    for place, point in enumerate(points):
        for number, reader in enumerate(readers.values()):
            measured = judge.measure(reader.decode(point, found.states[place]))
            lowest = min(lowest, float(measured["kl"].min()))
            tally.add((number, place), measured, found.text)
        tally.add((len(readers), place), judge.uniform(), found.text)
    return lowest


def flat(
    means: Mapping[str, np.ndarray], names: Sequence[str], own: str, label: str
) -> dict[str, float]:
    """Means of several lenses at one point, named as the scores of a fitted lens are.

    Parameters
    ----------
    means
        Measure to ``[lens]``.
    names
        Of the lenses, in that order.
    own
        The one whose scores have no name behind the measure.
    label
        Of the point.
    """
    return {
        _name(measure, lens, own, label): float(value)
        for measure, values in means.items()
        for lens, value in zip(names, values, strict=True)
        if np.isfinite(value)
    }


def unflat(
    scores: Mapping[str, float], names: Sequence[str], own: str, label: str
) -> dict[str, np.ndarray]:
    """Means by lens at one point, from the scores that :func:`flat` named."""
    return {
        measure: np.array([scores.get(_name(measure, n, own, label), np.nan) for n in names])
        for measure in VARIABLES
    }


def _name(measure: str, lens: str, own: str, label: str) -> str:
    """``kl_low`` of the logit lens at ``7_post``: ``kl_logit_low/7_post``."""
    base, _, end = measure.partition("_")
    parts = [base, "" if lens == own else lens, end]
    return "_".join(part for part in parts if part) + f"/{label}"
