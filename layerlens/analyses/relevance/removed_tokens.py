"""What a model answers with some tokens of a text taken away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

INSIDE = 12
"""States that a pass holds of each token at once, about."""


class RemovedTokens:
    """One text, with any of its tokens replaced but the first and the one that is answered at.

    Positions stay. A token that is taken away gets the mean embedding of the text's tokens. The
    first stays, because models lean on it whatever it is, and so does the token at which the
    answer is read: without it nothing is asked any more. The mean over the vocabulary would not
    do: some models take it for the beginning of a text, at every position.

    Parameters
    ----------
    place
        Position that is answered.
    measure
        From states after the last block to one number each.
    memory_limit
        Bytes that texts run side by side may take.

    Attributes
    ----------
    length
        Tokens of the text.
    positions
        Those that can be taken away.
    rows
        Texts that were run.
    """

    def __init__(
        self,
        model: LensModel,
        text: Tokens,
        place: int,
        measure: Metric,
        memory_limit: int,
        tick: Callable[[], None],
    ) -> None:
        self._model, self._text, self._place = model, text, place
        self._measure, self._tick = measure, tick
        self.length = text.ids.shape[1]
        self.positions = tuple(at for at in range(1, self.length) if at != place)
        row = self.length * model.d_model * model.dtype.itemsize * INSIDE
        self._most = max(1, memory_limit // row)
        self._known: dict[frozenset[int], float] = {}
        self.rows = 0
        self._instead = self._mean()

    def _mean(self) -> Tensor:
        found: list[Tensor] = []
        keep = lambda _, value: found.append(value[0, 1:].mean(0).clone())  # noqa: E731
        forward(self._model, self._text, [self._model.anatomy.entry], keep, logits=None)
        self.rows += 1
        return found[0]

    def without(self, sets: Iterable[Collection[int]]) -> list[float]:
        """The number with each set of positions taken away; each set is run once."""
        wanted = [frozenset(one) for one in sets]
        new = [one for one in dict.fromkeys(wanted) if one not in self._known]
        for start in range(0, len(new), self._most):
            self._tick()
            group = new[start : start + self._most]
            values = self._run(group)
            self._known.update(zip(group, values, strict=True))
        return [self._known[one] for one in wanted]

    def _run(self, group: list[frozenset[int]]) -> list[float]:
        text, last = self._text, Site("resid_post", self._model.n_layers - 1)
        many = replace(
            text, ids=text.ids.repeat(len(group), 1), mask=text.mask.repeat(len(group), 1)
        )
        changes = [
            Change(self._model.anatomy.entry, "set", self._instead, tuple(sorted(one)), row=row)
            for row, one in enumerate(group)
            if one
        ]
        found: list[Tensor] = []
        keep = lambda _, state: found.append(state[:, self._place].clone())  # noqa: E731
        forward(self._model, many, [last], keep, logits=None, changes=changes)
        self.rows += len(group)
        numbers: list[float] = self._measure(found[0]).tolist()
        return numbers

    def alone(self, one: Collection[int]) -> float:
        """As :meth:`without`, run by itself with nothing beside it."""
        return self._run([frozenset(one)])[0]
