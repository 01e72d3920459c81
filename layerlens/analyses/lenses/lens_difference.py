"""Two lenses on one grid: where another model, text or edited run would answer otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.lenses.comparison import Comparison, check_negative
from layerlens.analyses.lenses.given import DEFAULT_POINTS
from layerlens.analyses.lenses.lens import Lens
from layerlens.analyses.lenses.logit_lens import DEFAULT_LIMIT, lens_edits
from layerlens.analyses.lenses.logit_lens import count_work as one_lens
from layerlens.analyses.lenses.points import lens_points
from layerlens.analyses.lenses.readers import LOGIT, reader_of
from layerlens.analyses.lenses.second_run import Second, second_run
from layerlens.analyses.lenses.variables import VARIABLES as LENS
from layerlens.analyses.lenses.variables import apart
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.errors import InputError, MemoryLimitError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

OTHER = "other_"
VARIABLES = {
    **LENS,
    **{
        f"{OTHER}{name}": replace(variable, long_name=f"{variable.long_name}, other run")
        for name, variable in LENS.items()
    },
    **apart("point", "position"),
}


def count_work(
    model: LensModel, tokens: Tokens, *, other: Any, memory_limit: int, **options: Any
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    one = one_lens(
        model, tokens, lens=LOGIT, against=None, edits=(), memory_limit=memory_limit, **options
    )
    rows = (len(lens_points(model, options["points"])) + 1) * len(
        Cells(model, tokens, options["positions"])
    )
    return Work(2 * one.passes, 2 * one.head_rows + 2 * rows, 2 * one.bytes)


@analysis(
    name="lens_difference",
    question="From which layer on does another run say something else, and at which tokens?",
    source="nostalgebraist (2020), interpreting GPT: the logit lens, LessWrong, of two runs",
    cost="2 passes, plus two products of every row of both with the head",
    view="lens",
    lead="Two runs over the same depths and tokens, side by side or as what changes between them: "
    "the first depth at which a cell differs is where they begin to say something else.",
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
            decoders=[reader_of(run.model).decode],
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
            both = Comparison(self.job, self.one, self.two, shared=self.second.shared)
            check_negative(self.job, both.run())

    def _say(self) -> None:
        """Tell what the other run is, before anything of it is shown."""
        read = self.second.tokens
        rows = [[str(text) for text in strings] for strings in read.strings]
        self.job.note(
            other_kind=self.second.kind,
            other_label=self.second.label,
            other_tokens=json.dumps(rows[0] if read.single else rows, ensure_ascii=False),
        )
