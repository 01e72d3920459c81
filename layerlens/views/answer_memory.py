"""Answers that a view has had, so that going back to one costs nothing."""

from __future__ import annotations

from layerlens.result import Result
from layerlens.views.one_run import Run

MOST_BYTES = 64 << 20
"""Of all answers together; the oldest are forgotten."""


class Answers:
    """The last answers of one view, by their questions."""

    def __init__(self) -> None:
        self._known: list[tuple[Run, Result]] = []

    def get(self, run: Run) -> Result | None:
        """Return the answer to the question of a run, if it is known."""
        for known, result in self._known:
            if known.same_question(run.inputs, run.options):
                return result
        return None

    def keep(self, run: Run, result: Result) -> None:
        """Keep an answer, in the place of the oldest where there are too many."""
        others = [(k, r) for k, r in self._known if not k.same_question(run.inputs, run.options)]
        self._known = [*others, (run, result)]
        while len(self._known) > 1 and sum(r.data.nbytes for _, r in self._known) > MOST_BYTES:
            del self._known[0]

    def forget(self) -> None:
        """Forget all."""
        self._known = []
