"""The logit lens of a model that runs elsewhere: one request, decoded there."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses import checks as lens_checks
from layerlens.analyses.lenses.lens import Lens
from layerlens.analyses.lenses.one_pass import Row
from layerlens.model.evidence import logit_size
from layerlens.run.head_rows import Reduced
from layerlens.run.requests import remote_lens

if TYPE_CHECKING:
    from layerlens.model.remote import RemoteModel

FIELDS = ("top_ids", "top_logits", "log_norm", "entropy", "chosen", "above")
"""Of `layerlens.run.head_rows.Reduced`, in its order."""


class RemoteLens(Lens):
    """A lens whose states stay where they are: what is kept of each is computed there.

    Takes what `layerlens.analyses.lenses.lens.Lens` takes, with one way to decode, the logit
    lens.
    """

    def run(self) -> None:
        """Ask once, then fill in what came."""
        self.declare()
        self._targets()
        self.job.tick()
        rows = torch.from_numpy(self.cells.text), torch.from_numpy(self.cells.column)
        sites = [point.site for point in self.points]
        there = cast("RemoteModel", self.model)
        found, own = remote_lens(
            there, self.tokens, sites, rows, self.chosen, self.top_k, self.changes,
            memory=self.plan.buffers,
        )  # fmt: skip
        nothing = torch.empty((len(self.cells), 0))
        for index, kept in enumerate(found):
            self._row(Row(index, nothing, Reduced(*(kept[field] for field in FIELDS))))
        self._settle()
        self._ends(found)
        self._divergences(torch.stack([kept["kl"] for kept in found]))
        self.job.note(passes=self.resolved.passes + 1, head_rows=2 * len(found) * len(self.cells))
        self._against_model(own[:, -1])
        lens_checks.numbers(self.job, self.rank_errors)

    def _ends(self, found: list[dict[str, Tensor]]) -> None:
        """Where there is no next token, the model's own answer and its ranks."""
        for row in self.targets.own.tolist():
            where: dict[str, int | slice] = {"position": int(self.cells.position[row])}
            if not self.cells.single:
                where["batch"] = int(self.cells.text[row])
            answer = np.array(int(self.answer[-1][row]), dtype=np.int32)
            ranks = np.array([int(kept["own"][row]) + 1 for kept in found], dtype=np.int32)
            self._emit(where, {"target_id": answer, "rank": ranks})

    def _divergences(self, kl: Tensor) -> None:
        """Divergences ``[row, cell]`` from the final row, and their checks."""
        what = "divergence of the final row from itself (nats)"
        self.job.check("KL at final is zero", float(kl[-1].abs().max()), lens_checks.ROUNDING, what)
        what = "most negative divergence before rounding it to zero (nats)"
        lowest = max(0.0, -float(kl.min()))
        self.job.check("KL is not negative", lowest, lens_checks.ROUNDING, what)
        gaps = int((~torch.isfinite(kl)).sum())
        self.job.check("no gaps", gaps, 0, "divergences that are NaN or infinite")
        shown = torch.where((kl < 0) & (kl > -lens_checks.ROUNDING), 0.0, kl).float()
        for row in range(self.rows):
            self._emit_row(row, {"kl_to_final": self._spread("kl_to_final", shown[row])})
        self.job.progress(self.rows + 1, self.rows + 1, "KL to final")

    def _against_model(self, own: Tensor) -> None:
        """Compare the final row with logits ``[text, vocabulary]`` that the model gave."""
        error, largest = 0.0, 1.0
        kept = self.final.reduced
        for row in self.cells.last.tolist():
            text = int(self.cells.text[row])
            if not bool(self.tokens.mask[text, -1]):
                continue  # the model returned the logits of a padding token for this text
            theirs = own[text].float()
            off = (theirs[kept.top_ids[row]] - kept.top_logits[row]).abs().max()
            norm = (theirs.logsumexp(-1) - kept.log_norm[row]).abs()
            error = max(error, float(off), float(norm))
            largest = max(largest, logit_size(theirs))
        what = "largest logits and log-sum-exp of the final row against the model's, last position"
        limit = logit_tolerance(own.dtype) * largest
        self.job.check("final row is the model's", error, limit, what)
