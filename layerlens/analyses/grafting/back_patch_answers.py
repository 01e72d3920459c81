"""What a model answers in each cell of back-patching, in one token or in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable
from layerlens.run.edits import edit

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.model.lensmodel import LensModel
    from layerlens.model.sites import Site
    from layerlens.run.base import Base

NOT_COUNTED = NO_TOKEN = -1
ROWS = 64
"""Cells that are unembedded at once."""

_CELL = ("source", "target")
VARIABLES = {
    "change": Variable(_CELL, "float32", "1", "change of the metric", signed=True),
    "metric": Variable(_CELL, "float32", "1", "metric with the state put back", signed=True),
    "rank": Variable(_CELL, "int32", "1", "rank of the answer, 1 = best"),
    "token_id": Variable(_CELL, "int32", "1", "what the model answers", is_token=True),
    "success": Variable(
        _CELL, "int8", "1", "whether the model gives the answer (1, 0; -1 is not counted)"
    ),
    "success_rate": Variable(_CELL, "float32", "1", "share of texts", summary=True),
    "base_metric": Variable((), "float32", "1", "metric of the prompt as it is"),
    "base_rank": Variable((), "int32", "1", "rank of the answer in the prompt as it is"),
    "answer_id": Variable((), "int32", "1", "answer", is_token=True),
    "generated": Variable((*_CELL, "step"), "int32", "1", "generated token", is_token=True),
}


class Answers:
    """Ranks, answers and successes of one text's cells.

    Parameters
    ----------
    base
        The run that is patched.
    answer
        The hoped-for token.
    pairs
        Places of the cells along both axes, in the order of their numbers.
    size
        Length of both axes.
    lead
        Where all cells are: the text's row of the batch.

    Attributes
    ----------
    right
        [source, target] int8: whether the cell's answer is right.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        base: Base,
        answer: int,
        pairs: Sequence[tuple[int, int]],
        size: int,
        lead: Mapping[str, int],
    ) -> None:
        self.job, self.model, self.base, self.answer = job, model, base, answer
        self.pairs, self.lead = pairs, lead
        self.right = np.zeros((size, size), dtype=np.int8)

    def plain(self, metric: float) -> None:
        """Emit the numbers of the unedited run."""
        rank, _ = self._read(self.base.final.unsqueeze(0))
        arrays = {"base_metric": metric, "base_rank": rank[0], "answer_id": self.answer}
        self._emit({}, arrays)

    def leave_out(self, source: int, start: int, names: Sequence[str]) -> None:
        """Mark cells of a row, from a target on, that are not run."""
        sizes = self.job.parts.sizes if self.job.parts is not None else {}
        count = len(self.right) - start
        shapes = {name: (count, sizes["step"]) if name == "generated" else count for name in names}
        cells: dict[str, int | slice] = {"source": source, "target": slice(start, len(self.right))}
        filled = {
            name: np.full(shapes[name], VARIABLES[name].fill, dtype=VARIABLES[name].dtype)
            for name in names
        }
        self.job.emit({**self.lead, **cells}, filled)

    def see(self, numbers: Sequence[int], final: Tensor) -> None:
        """Emit rank and answer of finished cells, and note which are right."""
        for start in range(0, len(numbers), ROWS):
            part = numbers[start : start + ROWS]
            ranks, best = self._read(final[start : start + ROWS])
            for number, rank, token in zip(part, ranks, best, strict=True):
                s, t = self.pairs[number]
                self.right[s, t] = token == self.answer
                self._emit({"source": s, "target": t}, {"rank": rank, "token_id": token})

    def write(self, number: int, state: Tensor, site: Site, place: int, aliases: list[str]) -> None:
        """Generate with one cell's state in place; right is what says the answer somewhere."""
        s, t = self.pairs[number]
        steps = self.job.parts.sizes["step"] if self.job.parts is not None else 0
        change = edit(site, "set", state, position=place)
        written = self.model.generate(self.base.tokens, steps, change)
        ids = [*written.new_ids, *[NO_TOKEN] * (steps - len(written.new_ids))]
        self.right[s, t] = any(alias in written.new_text.lower() for alias in aliases)
        self._emit({"source": s, "target": t}, {"generated": ids})

    def _emit(self, where: Mapping[str, int], arrays: Mapping[str, Any]) -> None:
        shown = {name: np.array(one, dtype=VARIABLES[name].dtype) for name, one in arrays.items()}
        self.job.emit({**self.lead, **where}, shown)

    def _read(self, final: Tensor) -> tuple[list[int], list[int]]:
        """Rank of the answer and top token of runs, from their last states."""
        logits = self.model.unembed(final)
        above = (logits > logits[:, self.answer, None]).sum(-1) + 1
        return above.tolist(), logits.argmax(-1).tolist()


def success_rate(successes: Sequence[np.ndarray]) -> np.ndarray:
    """Share of texts in which a cell succeeds; NaN where it is not counted."""
    table = np.stack(successes)
    counted = (table != NOT_COUNTED).sum(0)
    rate = (table == 1).sum(0) / np.maximum(counted, 1)
    return np.where(counted > 0, rate, np.nan).astype(np.float32)
