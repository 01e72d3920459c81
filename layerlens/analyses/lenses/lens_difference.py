"""Two lenses on one grid: where another model, text or edited run would answer otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.lenses.checks import ROUNDING
from layerlens.analyses.lenses.lens import VARIABLES as LENS
from layerlens.analyses.lenses.lens import Lens
from layerlens.analyses.lenses.logit_lens import DEFAULT_LIMIT, DEFAULT_POINTS, lens_edits
from layerlens.analyses.lenses.logit_lens import count_work as one_lens
from layerlens.analyses.lenses.one_pass import Decode
from layerlens.analyses.lenses.points import lens_points
from layerlens.analyses.lenses.second_run import Second, second_run
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.errors import InputError, MemoryLimitError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

OTHER = "other_"
_CELL = ("point", "position")
VARIABLES = {
    **LENS,
    **{
        f"{OTHER}{name}": replace(variable, long_name=f"{variable.long_name}, other run")
        for name, variable in LENS.items()
    },
    "change": Variable(
        _CELL, "float32", "1", "change of the probability of the first run's top token", signed=True
    ),
    "tracked_change": Variable(
        (*_CELL, "tracked"),
        "float32",
        "1",
        "change of the probability of the tracked token",
        signed=True,
    ),
    "kl_between": Variable(
        _CELL, "float32", "nats", "KL divergence of the other run from the first"
    ),
}


def count_work(
    model: LensModel, tokens: Tokens, *, other: Any, memory_limit: int, **options: Any
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    one = one_lens(model, tokens, edits=(), memory_limit=memory_limit, **options)
    rows = (len(lens_points(model, options["points"])) + 1) * len(
        Cells(model, tokens, options["positions"])
    )
    return Work(2 * one.passes, 2 * one.head_rows + 2 * rows, 2 * one.bytes)


@analysis(
    name="lens_difference",
    question="From which layer on does another run say something else, and at which tokens?",
    source="nostalgebraist, interpreting GPT: the logit lens (2020), of two runs",
    cost="2 passes, plus two products of every row of both with the head",
    view="lens",
    lead="Each cell holds how far two runs lie apart at that depth and token: where colour "
    "begins, they begin to say something else.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
)
def lens_difference(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    other: Any = None,
    top_k: int = 5,
    points: str | Sequence[str] = DEFAULT_POINTS,
    tracked: Sequence[str | int] = (),
    positions: Any = None,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Decode two runs point by point, and compare what they would answer there.

    Parameters
    ----------
    other
        The other run: a model that reads the same tokens and has the same points (a fine-tuned
        one, a checkpoint), a second text of as many tokens, or edits (``ll.edit``) of this text's
        run.
    top_k, points, tracked, positions
        As in ``logit_lens``, for both.
    memory_limit

    Notes
    -----
    The variables of ``logit_lens`` are those of the first run, and with ``other_`` before their
    names those of the other. ``change`` is ``P_other(t) - P(t)`` for the token ``t`` that the first
    run would answer in that cell, ``tracked_change`` the same for tracked tokens, and
    ``kl_between`` is ``KL(P || P_other)`` over the whole vocabulary. Where two models have
    different vocabularies, tokens are the same by their text: then the divergence is that among
    the tokens that both have (each side summing to one over these), ``change`` is NaN where the
    other has no such token, and ids are the first model's (-1 where it has none).

    Raises
    ------
    InputError
        The other run is none of these, or its positions or points have no counterpart.
    MemoryLimitError
        The states of both runs do not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> both = ll.lens_difference(model, "cat dog owl cat", other="cat fox owl cat")
    >>> bool((both.data.kl_between.sel(position=0) == 0).all())
    True
    """
    if not 1 <= top_k <= model.d_vocab:
        raise InputError(f"top_k is {top_k}; expected 1 to {model.d_vocab}.")
    names = (tracked,) if isinstance(tracked, str | int) else tuple(tracked)
    wanted = [model.token_id(token) for token in names]
    second = second_run(job, model, tokens, other, points)
    first = Second("", "", model, tokens)
    lenses = []
    for run, beside in ((first, ""), (second, OTHER)):
        lens = Lens(
            job,
            run.model,
            run.tokens,
            lens_edits(job, run.model, run.tokens, run.edits),
            Cells(run.model, run.tokens, positions),
            lens_points(run.model, points),
            top_k,
            run.ids(wanted, model),
            memory_limit // 2,
            decode=_decoder(run.model),
            beside=beside,
            names=run.names,
        )
        if not lens.plan.store:
            raise MemoryLimitError(
                f"The states of both runs do not fit into {memory_limit / 1e6:.0f} MB: raise "
                "memory_limit, or ask for fewer positions or points."
            )
        lenses.append(lens)
    _LensDifference(job, second, *lenses).run()


def _decoder(model: LensModel) -> Decode:
    return lambda _, state: model.head_input(state)


class _LensDifference:
    """The work of one call."""

    def __init__(self, job: Job, second: Second, one: Lens, two: Lens) -> None:
        self.job, self.second, self.one, self.two = job, second, one, two
        if not np.array_equal(one.cells.position, two.cells.position):
            raise InputError("The positions that were chosen are not the same in both texts.")

    def run(self) -> None:
        """Run both lenses, then compare."""
        self._say()
        passes = 0
        for lens, who in ((self.one, "first run"), (self.two, "other run")):
            checks = len(self.job.checks)
            with lens.model.running():
                lens.run()
            passes += int(self.job.notes["passes"])
            self.job.checks[checks:] = [
                check._replace(name=f"{check.name}, {who}") for check in self.job.checks[checks:]
            ]
        self.job.note(passes=passes)
        with self.two.model.running():
            self._compare()

    def _say(self) -> None:
        """Tell what the other run is, before anything of it is shown."""
        read = self.second.tokens
        rows = [[str(text) for text in strings] for strings in read.strings]
        self.job.note(
            other_kind=self.second.kind,
            other_label=self.second.label,
            other_tokens=json.dumps(rows[0] if read.single else rows, ensure_ascii=False),
        )

    def _compare(self) -> None:
        """Compare as many points at once as one product with the head takes."""
        one, two = self.one, self.two
        size, count = min(one.head.rows, two.head.rows), len(one.cells)
        step = max(1, size // count)
        negative = 0.0
        for first in range(0, one.rows, step):
            points = range(first, min(first + step, one.rows))
            a, b = (torch.cat([lens.input_of(point) for point in points]) for lens in (one, two))
            parts = []
            for start in range(0, len(a), size):
                self.job.tick()
                parts.append(self._cells(a[start : start + size], b[start : start + size]))
            change, tracked, kl = (torch.cat(few) for few in zip(*parts, strict=True))
            negative = max(negative, -float(kl.min()))
            self._emit(points, change, tracked, kl.clamp_min(0))
            self.job.progress(points[-1] + 1, one.rows, "difference")
        what = "most negative divergence between the runs before rounding it to zero (nats)"
        self.job.check("KL between is not negative", negative, ROUNDING, what)

    def _emit(self, points: range, change: Tensor, tracked: Tensor, kl: Tensor) -> None:
        count = len(self.one.cells)
        for place, point in enumerate(points):
            here = slice(place * count, (place + 1) * count)
            arrays = {"change": change[here], "kl_between": kl[here]}
            if self.one.tracked:
                arrays["tracked_change"] = tracked[here]
            spread = {
                name: self.one.cells.spread(value.float().cpu().numpy(), float("nan"))
                for name, value in arrays.items()
            }
            self.job.emit({"point": point}, spread)

    def _cells(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Change of the top token and of tracked ones, and the divergence."""
        mine = self.one.head.logits(a).log_softmax(-1)
        theirs = self.two.head.logits(b).log_softmax(-1).to(mine)
        top = mine.argmax(-1, keepdim=True)
        there, known = self._there(top)
        change = (theirs.gather(-1, there).exp() - mine.gather(-1, top).exp())[:, 0]
        change = change.masked_fill(~known[:, 0], float("nan"))
        tracked = theirs[:, self.two.tracked].exp() - mine[:, self.one.tracked].exp()
        if self.second.shared is not None:
            ids = torch.from_numpy(self.second.shared).to(mine.device)
            mine, theirs = mine[:, ids[0]].log_softmax(-1), theirs[:, ids[1]].log_softmax(-1)
        kl = torch.nn.functional.kl_div(theirs, mine, reduction="none", log_target=True).sum(-1)
        return change, tracked, kl

    def _there(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids of tokens in the other vocabulary, and whether it has them."""
        shared = self.second.shared
        if shared is None:
            return ids, torch.ones_like(ids, dtype=torch.bool)
        table = torch.full((self.one.model.d_vocab,), -1, dtype=torch.int64)
        table[shared[0]] = torch.from_numpy(shared[1])
        there = table.to(ids.device)[ids]
        return there.clamp_min(0), there >= 0
