"""What is verified for a lens on what a model writes, on the very numbers of its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses import checks as lens_checks
from layerlens.analyses.lenses.checks import ROUNDING
from layerlens.analyses.lenses.written_again import states_again
from layerlens.model.evidence import logit_size
from layerlens.run.edits import Edit
from layerlens.run.head_rows import Reduced

if TYPE_CHECKING:
    from layerlens.analyses.lenses.writing import Writing
    from layerlens.model.lensmodel import LensModel


@dataclass
class Found:
    """What the checks need of the tokens written so far.

    Attributes
    ----------
    tops
        For each token ids and logits ``[text, point, k]`` of the best predictions.
    going
        For each token which texts it was written for.
    size
        Largest logit, what tolerances are shares of.
    final
        Largest difference of a final row's logits from the model's own.
    under
        How far the logit of a token that was chosen as the best one lies under the largest.
    kl
        Most negative divergence, and largest of a final row from itself.
    late
        Points by which a settled one comes before the first one.
    """

    tops: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    going: list[np.ndarray] = field(default_factory=list)
    size: float = 1.0
    final: float = 0.0
    under: float = 0.0
    kl: float = 0.0
    late: int = 0
    rank_errors: int = 0
    head_rows: int = 0

    def add(
        self, kept: Reduced, kl: Tensor, own: Tensor, going: np.ndarray, *, forced: bool
    ) -> None:
        """Take the rows of one token, ``[text, point, ...]``, and the model's own logits."""
        rows = torch.from_numpy(np.flatnonzero(going)).to(kept.top_ids.device)
        self.tops.append((kept.top_ids, kept.top_logits))
        self.going.append(going.copy())
        ids, logits = kept.top_ids[rows, -1], kept.top_logits[rows, -1]
        theirs = own.to(logits.device)[rows]
        self.size = max(self.size, logit_size(theirs))
        self.final = max(self.final, float((theirs.gather(1, ids) - logits).abs().max()))
        if not forced:
            self.under = max(self.under, float((logits[:, 0] - kept.chosen[rows, -1, 0]).max()))
        self.kl = max(self.kl, -float(kl.min()), float(kl[:, -1].abs().max()))


def report(job: Job, found: Found, model: LensModel, *, greedy: bool) -> None:
    """Report what was seen while the model wrote."""
    limit = logit_tolerance(model.dtype) * found.size
    what = "largest difference between the final rows' top logits and the model's own"
    job.check("final row is the model's", found.final, limit, what)
    if greedy:
        what = "how far the logit of a written token lies under the final row's largest"
        job.check("written is the final answer", found.under, limit, what)
    what = "divergence of a final row from itself, or a negative one (nats)"
    job.check("KL at final is zero", found.kl, ROUNDING, what)
    what = "points by which settle comes before first"
    job.check("settle after first", found.late, 0, what)
    lens_checks.numbers(job, found.rank_errors)


def uncached(writing: Writing, edits: tuple[Edit, ...], steps: list[int]) -> None:
    """Run the finished text once without a cache, and read some of its tokens again."""
    model = writing.model
    states = states_again(
        model, writing.tokens, writing.texts, edits, writing.rows.sites, steps, writing.job.tick
    )
    rows = writing.rows.rows(states)
    tops = [torch.stack(part, 1).flatten(0, 1) for part in _of(writing.found, steps)]
    # Rows of a group may stand for one point or another: each is read for the point it is.
    again = writing.head.reduce(
        rows.x[_places(rows.order, rows.group, len(tops[0]))], tops[0].flatten(0, 1), 1
    )
    gap = (again.chosen.view_as(tops[1]) - tops[1]).abs().flatten(1).amax(1)
    going = np.stack([writing.found.going[step] for step in steps], 1).ravel()
    error = float(gap[torch.from_numpy(going).to(gap.device)].max())
    limit = logit_tolerance(model.dtype) * writing.found.size
    what = (
        f"largest difference of the top logits from those of one pass without a cache, "
        f"{len(steps)} tokens at every point"
    )
    writing.job.check("cached is uncached", error, limit, what)
    writing.job.note(passes=2.0, head_rows=writing.found.head_rows + len(again.log_norm))


def _of(found: Found, steps: list[int]) -> list[list[Tensor]]:
    """Ids and logits of the best predictions of some tokens."""
    return [[found.tops[step][part] for step in steps] for part in (0, 1)]


def _places(order: list[int], group: int, count: int) -> Tensor:
    """Where the row of each point of each state stands among all rows."""
    return (torch.arange(count)[:, None] * group + torch.tensor(order)).flatten()
