"""How often a model with sublayers left out would write the token that the whole model does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.answers.prediction_change import Outputs, kl
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import left_out
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.depth.finercut_trials import Unit
from layerlens.analyses.depth.left_out_cells import open_set
from layerlens.analyses.depth.skip_sets import (
    drawn,
    first_of,
    mismatch,
    set_sizes,
    unit_name,
    unit_sets,
    without_units,
)
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, passes, require_tokens, tolerance
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_ROW = ("skipped",)
_OF = "share of tokens that stay the likeliest"
VARIABLES = {
    **with_interval("matchness", Variable(_ROW, "float64", "1", _OF)),
    "matchness_random": Variable(_ROW, "float64", "1", f"{_OF}, mean of random sets"),
    "matchness_random_best": Variable(_ROW, "float64", "1", f"{_OF}, best of the random sets"),
    "loss_change": Variable(_ROW, "float64", "nats", "change of the loss"),
    "loss_change_random": Variable(_ROW, "float64", "nats", "change of the loss, random sets"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    skip: Sequence[str] | None,
    counts: int | Sequence[int] | None,
    keep_ends: bool,
    draws: int,
    seed: int,
    skip_first: bool | int,
    batch_size: int | None,
    verify: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    order, pool = unit_sets(model, skip, keep_ends)
    numbers = set_sizes(counts, order, pool)
    runs = sum(1 + draws * (0 < number < len(pool)) for number in numbers)
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    states = (model.n_layers + 4) * widest * model.d_model * model.dtype.itemsize
    return Work(1 + runs + verify, (1 + runs + 2 * verify) * sum(tokens.lengths), states)


@analysis(
    name="matchness",
    question="With sublayers left out, how often is the likeliest token still the same?",
    source="Xia et al. (2024), SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference "
    "Acceleration, arXiv 2410.06916 (matchness of a set of skipped sublayers)",
    cost="1 pass, and up to 1 for each number of sublayers left out and each random set",
    view="panels",
    lead="The share of tokens for which the model without these sublayers would write what the "
    "whole model does; below random sets of the same size, the choice is a bad one.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    pooled=True,
    effects={"keep_ends": left_out("skip")},
    opens=open_set,
)
def matchness(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    skip: Sequence[str] | None = None,
    counts: int | Sequence[int] | None = None,
    keep_ends: bool = True,
    draws: int = 5,
    seed: int = 0,
    skip_first: bool | int = True,
    batch_size: int | None = None,
    verify: int = 1,
) -> None:
    """Leave out sets of sublayers and count the tokens whose likeliest successor is the same.

    A sublayer that is left out adds nothing to the residual stream. A model that drafts with
    such a set, and checks the draft with all layers, has this share of its drafts accepted.

    Parameters
    ----------
    skip
        Sublayers in the order in which they are left out, called as ``finercut`` calls them:
        ``["20 mlp", "18 attn"]``; the sets are the first so many of them. None: for each number
        a set that is evenly spread over depth, which for half of all is every second one.
    counts
        How many to leave out, or several numbers; None: from none to all of ``skip``, or six
        numbers up to 60 % of all.
    keep_ends
        Leave out nothing of the first and the last block, as published.
    draws
        How many random sets of each size, of the sublayers that may be left out, to compare with.
    seed
        Of the draws.
    skip_first
    batch_size
    verify
        How many of the largest sets are run again by passes of the whole model on the first batch.

    Notes
    -----
    ``matchness`` is a mean over tokens, with an interval over texts; ``loss_change`` is that of
    the mean loss per token. With none or all left out there is one set only, and the controls
    are the same number. Attribute ``sets``: the sublayers of each set as JSON. Published on
    windows of 32 tokens that the model had written itself; here every token of the texts counts.

    Raises
    ------
    InputError
        An option does not fit, or no token counts.
    SiteError
        The blocks have no sublayer that can be left out.
    ModelError
        The model has no head.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.matchness(model, "cat dog owl cat", keep_ends=False)
    >>> float(found.data.matchness.sel(skipped=0))
    1.0
    """
    if whole(draws, "draws") < 1:
        raise InputError(f"draws is {draws}; expected 1 or more.")
    order, pool = unit_sets(model, skip, keep_ends)
    numbers = set_sizes(counts, order, pool)
    require_tokens(tokens, skip_first)
    sets = [first_of(order, pool, n) for n in numbers]
    random = [drawn(pool, n, draws, seed) for n in numbers]
    job.declare({"skipped": len(numbers)}, {"skipped": (_ROW, np.array(numbers, dtype=np.int32))})
    job.note(sets=json.dumps([[unit_name(unit) for unit in units] for units in sets]))
    _Matchness(job, model, tokens, sets, random).run(skip_first, batch_size, verify)


class _Matchness:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        sets: list[list[Unit]],
        random: list[list[list[Unit]]],
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.runs = [[own, *others] for own, others in zip(sets, random, strict=True)]
        shape = (len(sets), max(len(run) for run in self.runs))
        self.means = {name: TokenMeans(*shape) for name in ("match", "loss")}
        self.blocks = 0
        self.empty = self.off = 0.0

    def run(self, skip_first: bool | int, batch_size: int | None, verify: int) -> None:
        """Every set on each batch."""
        batches = len(split(self.tokens, batch_size))
        total, done = batches * sum(len(run) for run in self.runs), 0
        for one in passes(self.model, self.tokens, skip_first, batch_size, self.job.tick):
            self.blocks += self.model.n_layers
            outputs = Outputs(self.model, one.batch, one.taken(one.states[-1]))
            for place, run in enumerate(self.runs):
                verified = one.batch.numbers[0] == 0 and place >= len(self.runs) - verify
                for column, units in enumerate(run):
                    final = self._without(one, units)
                    self._add(outputs, one, (place, column), final)
                    if verified and not column:
                        self._verify(one, units, final)
                    done += 1
                    self.job.progress(done, total, f"{len(units)} sublayers left out")
                self._emit(place)
        self._finish(verify)

    def _without(self, one: Pass, units: list[Unit]) -> Tensor:
        final, blocks = without_units(self.model, one, units)
        self.blocks += blocks
        return final

    def _add(self, outputs: Outputs, one: Pass, cell: tuple[int, int], final: Tensor) -> None:
        other, loss = outputs.compare(one.taken(final), mismatch)
        self.means["match"].add(cell, 1 - other, one.batch)
        self.means["loss"].add(cell, loss - outputs.loss, one.batch)
        if not len(self.runs[cell[0]][0]):
            self.empty = max(self.empty, float(other.max()))

    def _verify(self, one: Pass, units: list[Unit], final: Tensor) -> None:
        """The same by a pass of the whole model with hooks."""
        whole_pass = one.without(sublayers=units)
        self.blocks += self.model.n_layers
        same = Outputs(self.model, one.batch, one.taken(final))
        distance, _ = same.compare(one.taken(whole_pass), kl)
        self.off = max(self.off, float(distance.max()))

    def _emit(self, place: int) -> None:
        match, loss = (self.means[name].mean()[place] for name in ("match", "loss"))
        random = slice(1, len(self.runs[place])) if len(self.runs[place]) > 1 else slice(0, 1)
        arrays: dict[str, Any] = {
            "matchness": match[0],
            "matchness_random": match[random].mean(),
            "matchness_random_best": match[random].max(),
            "loss_change": loss[0],
            "loss_change_random": loss[random].mean(),
        }
        self.job.emit({"skipped": place}, {name: np.array(v) for name, v in arrays.items()})

    def _finish(self, verify: int) -> None:
        low, high = self.means["match"].interval()
        self.job.emit({}, {"matchness_low": low[:, 0], "matchness_high": high[:, 0]})
        self.job.note(
            passes=self.blocks / self.model.n_layers,
            method="restart from the state before the first layer that lacks something",
        )
        if not self.runs[0][0]:
            what = "1 where a token of the whole model's does not match itself"
            self.job.check("nothing left out", self.empty, 0, what)
        if verify:
            what = "KL of the largest sets from passes of the whole model with hooks"
            self.job.check("naive agreement", self.off, tolerance(self.model), what)
