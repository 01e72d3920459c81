"""How many cotangents go back at once, under a ceiling of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layerlens.analyses.contract.contract import Work
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS, count_kept
from layerlens.errors import MemoryLimitError
from layerlens.run.head_rows import LOGIT_BYTES

if TYPE_CHECKING:
    from layerlens.analyses.lenses.fitting.asked import Asked
    from layerlens.corpus.rows import Row
    from layerlens.model.lensmodel import LensModel

MOST_ROWS = 8
"""More at once go back no faster."""
KEPT_STATES = 28
"""What the graph keeps of a token in one block, in states; 24.5 were measured on a Llama."""


@dataclass(frozen=True)
class JacobianPlan:
    """How a Jacobian lens uses memory.

    Attributes
    ----------
    rows
        Cotangents that go back at once.
    head
        Bytes of the buffers of the head.
    bytes
        Peak above the model's own, as planned.
    """

    rows: int
    head: int
    bytes: int


def jacobian_work(asked: Asked, rows: Sequence[Row]) -> Work:
    """Count passes, rows through the head and bytes of a fit; runs nothing.

    A pass back to the states takes as long as one forward, and goes only as deep as the first
    point that is fitted.
    """
    model, points = asked.model, asked.chosen
    fed = sum(len(row.ids) for row in rows)
    longest = max(len(row.ids) for row in rows)
    plan = plan_jacobian(model, len(points), asked.rows, longest, asked.memory_limit)
    spanned = 1 - (points[0].layer + 1) / model.n_layers
    # The graph is made for as many rows as go back at once.
    back = plan.rows + asked.rows * spanned
    if asked.tracked:  # the texts set apart are gone through in the same way
        return Work(back, 0, plan.bytes, tokens=fed)
    passes = asked.test + (1 - asked.test) * back
    judged = round(asked.test * count_kept(rows, asked.skipped))
    head_rows = (len(asked.lenses) * len(points) + 2) * judged
    return Work(passes, head_rows, plan.bytes, tokens=fed)


def plan_jacobian(
    model: LensModel, points: int, rows: int, longest: int, limit: int
) -> JacobianPlan:
    """Decide how many cotangents go back at once.

    Parameters
    ----------
    points
        How many are fitted.
    rows
        Rows of the matrix of each.
    longest
        Tokens of the longest prompt.
    limit
        Bytes.

    Raises
    ------
    MemoryLimitError
        Not even one does.
    """
    d, item = model.d_model, model.dtype.itemsize
    # The sums, what was handed over of them, and the means on the way there.
    sums = 3 * points * rows * d * 4
    head = min(2 * LOGIT_BYTES, limit // 4)
    judging = head + (points + 4) * BATCH_TOKENS * d * item
    pattern = 2 * model.n_heads * longest**2
    a_row = (KEPT_STATES * d * longest + pattern) * model.n_layers * item
    count = min(MOST_ROWS, rows, (limit - sums) // a_row)
    if count < 1 or sums + judging > limit:
        needed = sums + max(a_row, judging)
        raise MemoryLimitError(
            f"A Jacobian lens of {points} points on texts of {longest} tokens needs "
            f"{needed / 1e6:.0f} MB of working memory and the limit is {limit / 1e6:.0f} MB: raise "
            "memory_limit, or give shorter texts or fewer points."
        )
    return JacobianPlan(count, head, sums + max(count * a_row, judging))
