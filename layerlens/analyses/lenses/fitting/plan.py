"""How many points are fitted from one reading of the texts, under a ceiling of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS
from layerlens.analyses.lenses.fitting.kl_steps import STEP_TOKENS
from layerlens.errors import MemoryLimitError
from layerlens.run.head_rows import LOGIT_BYTES

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

LEAST_CHUNK = 8
"""Tokens whose logits are held at once, at least."""


@dataclass(frozen=True)
class FitPlan:
    """How a fit uses memory.

    Attributes
    ----------
    group
        Points for which sums and states are held at once; each group reads the texts once.
    readings
        How often the texts are read.
    head
        Bytes of the buffers of the head.
    chunk
        Tokens of a step whose logits are held at once.
    bytes
        Peak above the model's own, as planned.
    """

    group: int
    readings: int
    head: int
    chunk: int
    bytes: int


def plan_fit(
    model: LensModel, points: int, limit: int, *, sums: int, taught: int, judged: int
) -> FitPlan:
    """Decide how many points are fitted from one reading.

    Parameters
    ----------
    points
        How many are to be fitted.
    limit
        Bytes.
    sums
        Sets of sums of products that are kept for each point.
    taught, judged
        Tokens whose states are kept for steps, and for the test.

    Raises
    ------
    MemoryLimitError
        Not even one point fits.
    """
    d, item = model.d_model, model.dtype.itemsize
    states = taught + judged + BATCH_TOKENS
    a_point = sums * 2 * d * d * 8 + states * d * item
    # Maps while they are solved: the centred products, the solution and their copies.
    solving = 6 * d * d * 8 * (sums > 0) + states * d * item
    head = min(2 * LOGIT_BYTES, limit // 3)
    # The final log-probabilities, the lens's, their difference and the gradients of these.
    a_token = 6 * 4 * model.d_vocab
    chunk = max(LEAST_CHUNK, min(STEP_TOKENS, head // a_token)) if taught else 0
    fixed = max(head, chunk * a_token) + solving
    group = min(points, (limit - fixed) // a_point)
    if group < 1:
        raise MemoryLimitError(
            f"To fit one point needs {(fixed + a_point) / 1e6:.0f} MB of working memory and the "
            f"limit is {limit / 1e6:.0f} MB: raise memory_limit, or lower test_tokens."
        )
    return FitPlan(group, -(-points // group), head, chunk, fixed + group * a_point)
