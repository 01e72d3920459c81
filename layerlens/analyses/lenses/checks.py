"""What is verified for every logit lens, on the very numbers of its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.answers.divergence import Reference
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses.one_pass import LensPass, Row
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.model.evidence import logit_error, logit_size
from layerlens.run.head_rows import Reduced

if TYPE_CHECKING:
    from layerlens.model.text import Tokens

ROUNDING = 1e-4
"""Nats: divergences above minus this are rounding, and shown as zero."""


def against_model(job: Job, lens_pass: LensPass, final: Row, tokens: Tokens, cells: Cells) -> None:
    """Compare the final row with the logits that the model itself returned."""
    own, extras = lens_pass.logits, lens_pass.final
    if own is None or extras is None:
        return
    if lens_pass.answered is not None:
        _pooled(job, lens_pass.answered, own)
        return
    error, largest, norm_error = 0.0, 1.0, 0.0
    compared = 0
    for place, row in enumerate(cells.last.tolist()):
        kept = extras.kept[place]
        norm = torch.logsumexp(kept, 0) - final.reduced.log_norm[row]
        norm_error = max(norm_error, float(norm.abs()))
        text = int(cells.text[row])
        if not bool(tokens.mask[text, -1]):
            continue  # the model returned the logits of a padding token for this text
        theirs = own[text, -1].to(kept)
        size = logit_size(theirs)
        largest = max(largest, size)
        error = max(error, logit_error(kept, theirs) * size)
        compared += 1
    if compared:
        limit = logit_tolerance(own.dtype) * largest
        what = "largest difference between the final row and the model's own logits, last position"
        job.check("final row is the model's", error, limit, what)
    if len(cells.last):
        what = "log-sum-exp of the streamed softmax against one over the whole row (nats)"
        job.check("probabilities sum to one", norm_error, ROUNDING, what)


def _pooled(job: Job, answered: Tensor, own: Tensor) -> None:
    """The same where the head answers once for all positions of a text."""
    largest = max(1.0, logit_size(own))
    error = logit_error(answered, own.float()) * largest
    what = "largest difference between the head on the last states, pooled, and the model's logits"
    job.check("final row is the model's", error, logit_tolerance(own.dtype) * largest, what)


def divergence(job: Job, kl: Tensor, final: Reduced, reference: Reference) -> None:
    """Check the divergences against identities."""
    what = "divergence of the final row from itself (nats)"
    job.check("KL at final is zero", float(kl[-1].abs().max()), ROUNDING, what)
    what = "most negative divergence before rounding it to zero (nats)"
    job.check("KL is not negative", max(0.0, -float(kl.min())), ROUNDING, what)
    mean = reference.mean_logit()
    if mean is not None:
        error = (final.log_norm - mean - final.entropy).abs().max()
        what = "entropy of the final row by the mean weight row, which gives KL, and by the softmax"
        job.check("KL by the mean weight row", float(error), 10 * ROUNDING, what)
    gaps = int((~torch.isfinite(kl)).sum())
    job.check("no gaps", gaps, 0, "divergences that are NaN or infinite")


def rank_errors(kept: Reduced, chosen: Tensor) -> int:
    """How many chosen tokens [R, m] are listed but ranked behind the list, or the reverse.

    A token that ties with the last one listed may be ranked within the list and not be on it.
    """
    listed = (kept.top_ids.unsqueeze(1) == chosen.unsqueeze(-1)).any(-1)
    ranked = kept.above < kept.top_ids.shape[1]
    ties = kept.chosen == kept.top_logits[:, -1:]
    return int(((listed != ranked) & ~ties).sum())


def numbers(job: Job, errors: int) -> None:
    """Report what :func:`rank_errors` counted."""
    what = "tokens ranked within k and not among the k listed, or the reverse (ties apart)"
    job.check("ranks agree with the list", errors, 0, what)
