"""The rows of a Jacobian lens that some tokens need: exact for them, at a pass back for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Variable
from layerlens.analyses.lenses.head_directions import HeadDirections
from layerlens.analyses.lenses.jacobian.fit import VARIABLES as HALVES
from layerlens.analyses.lenses.jacobian.fit import JacobianFit
from layerlens.analyses.lenses.jacobian.mean import JacobianMean
from layerlens.errors import InputError, ModelError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.fitting.asked import Asked
    from layerlens.corpus.texts import Texts
    from layerlens.model.text import Tokens

ALIKE = 200
"""Tokens as long as a tracked one, of which a control is drawn."""
VARIABLES = {
    "rows_cosine": Variable(
        ("point",), "float32", "1", "cosine of a token's row with its row on texts set apart"
    ),
    "rows_cosine_other": Variable(
        ("point",), "float32", "1", "cosine of a token's row with another token's row there"
    ),
}
"""How much the rows are the token's own: the second is the control of the first."""
IDS, CONTROLS = "tokens", "controls"
"""Arrays beside the rows: all tokens, and how many at their end are controls."""


class TokenFit(JacobianFit):
    """The work of one call with ``tracked=``; see :class:`JacobianFit`.

    Raises
    ------
    ModelError
        The head is not one matrix behind one norm, so that a token has no direction.
    """

    ARRAY = "rows"
    SHOWN = (*HALVES, *VARIABLES)

    def __init__(self, job: Job, texts: Tokens | Texts, asked: Asked) -> None:
        super().__init__(job, texts, asked)
        head = HeadDirections.of(self.model)
        if head is None:
            raise ModelError(
                f"The head of {self.model.name} is not plainly one matrix, so that a token has no "
                "direction of its own: fit the whole lens, without tracked=."
            )
        controls = drawn_controls(head, asked.tracked_ids, asked.controls, asked.seed)
        self.ids = [*asked.tracked_ids, *controls]
        self.directions = head.rows(self.ids).cpu()

    def _declare(self) -> None:
        points = self.points
        coords = {
            "point": (("point",), np.array([point.label for point in points])),
            "layer": (("point",), np.array([point.layer for point in points], dtype=np.int32)),
        }
        self.job.declare({"point": len(points)}, coords, self.SHOWN)
        arrays = {IDS: torch.tensor(self.ids), CONTROLS: torch.tensor(self.asked.controls)}
        self.job.learned(arrays)

    def _cotangents(self, start: int, stop: int) -> Tensor:
        return self.directions[start:stop]

    def _judge(self) -> None:
        """Take the rows of the texts set apart, and compare each token's with its own there."""
        held = JacobianMean(self.mean.labels, self.rows, self.width)
        for row in self.test:
            if len(row.ids) <= self.asked.skipped + 1:
                continue
            prompt, _, _ = self._prompt(row)
            for start in range(0, self.rows, self.plan.rows):
                stop = min(start + self.plan.rows, self.rows)
                held.add(start, prompt.pull(self._cotangents(start, stop)))
            held.ended()
        if not held.prompts:
            raise InputError(
                "No text that was set apart is long enough to be read: give longer texts, or a "
                "smaller positions_skipped."
            )
        found = compared(self.mean.means(), held.means())
        scores = {
            f"{name}/{label}": float(value)
            for name, values in found.items()
            for label, value in zip(self.mean.labels, values, strict=True)
        }
        self.job.learned(self.job.arrays, {"test": {**scores, "prompts": float(held.prompts)}})
        self.job.emit({}, found)


def compared(rows: dict[str, Tensor], held: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Mean cosine of rows with those of texts set apart: of the same token, and of another."""
    own, other = [], []
    for label, matrix in rows.items():
        first, second = (
            torch.nn.functional.normalize(one, dim=-1) for one in (matrix, held[label])
        )
        cosines = first @ second.T
        count = len(cosines)
        own.append(float(cosines.diagonal().mean()))
        apart = float(cosines.sum() - cosines.diagonal().sum())
        other.append(apart / (count * (count - 1)) if count > 1 else float("nan"))
    found = {"rows_cosine": own, "rows_cosine_other": other}
    return {name: np.array(values, dtype=np.float32) for name, values in found.items()}


def drawn_controls(
    head: HeadDirections, tracked: Sequence[int], count: int, seed: int
) -> list[int]:
    """Draw tokens at random among those whose direction is about as long as a tracked one's.

    Raises
    ------
    InputError
        The vocabulary has too few.
    """
    if not count:
        return []
    lengths = torch.cat([rows.norm(dim=-1).cpu() for rows in head.chunks()])
    if count > len(lengths) - len(tracked):
        raise InputError(
            f"controls is {count}, and the vocabulary has {len(lengths) - len(tracked)} other "
            "tokens: ask for fewer."
        )
    random = np.random.default_rng(seed)
    taken = set(tracked)
    found: list[int] = []
    for number in range(count):
        like = lengths[tracked[number % len(tracked)]]
        order = (lengths - like).abs().argsort().tolist()
        near = [token for token in order if token not in taken][:ALIKE]
        found.append(int(random.choice(near)))
        taken.add(found[-1])
    return found
