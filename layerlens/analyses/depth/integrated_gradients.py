"""What each sublayer's output at each token adds to the answer: gradients along a whole way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import Metric, MetricFunction, make_metric
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.depth.finercut_trials import Unit, units_of
from layerlens.analyses.depth.path_gradients import Along, PathGradients
from layerlens.analyses.depth.skip_sets import unit_name
from layerlens.analyses.sweeps.clean_pass import tolerance
from layerlens.analyses.sweeps.straight_way import FEWEST, INSIDE, TIMES, WITHIN
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base
from layerlens.run.many_edits import DEFAULT_LIMIT

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_ROW = ("sublayer",)
VARIABLES = {
    "attribution": Variable(
        ("sublayer", "position"), "float64", "1", "share of the metric's change", signed=True
    ),
    "change": Variable(
        _ROW, "float64", "1", "change of the metric from the sublayer's mean output", signed=True
    ),
    "change_chance": Variable(
        _ROW, "float64", "1", "the same from as far away in a random direction", signed=True
    ),
    "steps_used": Variable(_ROW, "int32", "1", "gradients taken along the way"),
    "missed": Variable(
        _ROW, "float64", "1", "what the attributions miss of the change", signed=True
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    metric: str | MetricFunction,
    answer: Any,
    wrong: Any,
    steps: int,
    layers: Sequence[int] | None,
    seed: int,
    memory_limit: int,
) -> Work:
    """Count passes, rows and bytes as if the fewest steps were enough; a way back counts as two."""
    chosen = _units(model, layers)
    rows = min(whole(steps, "steps"), FEWEST) + 2
    later = sum(model.n_layers - unit.layer for unit in chosen) / model.n_layers
    one = max(tokens.lengths) * model.d_model * model.dtype.itemsize * model.n_layers * INSIDE
    heads = len(tokens.lengths) * rows * len(chosen)
    return Work(1 + rows + 3 * rows * later, heads, max(2 * one, min(memory_limit, rows * one)))


@analysis(
    name="integrated_gradients",
    question="At which tokens does each sublayer's output make the answer what it is?",
    source="Sundararajan, Taly and Yan (2017), Axiomatic Attribution for Deep Networks, arXiv "
    "1703.01365; by sublayer: Csordás, Manning and Potts (2025), Do Language Models Use "
    "Their Depth Efficiently?, arXiv 2505.13898",
    cost="1 pass a text, and for each sublayer and step half a pass and its way back",
    view="grid",
    lead="A cell is what one sublayer's output at one token adds to the answer; a row adds up to "
    "what the metric loses when that sublayer gives its mean output everywhere.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    gradients=True,
)
def integrated_gradients(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    metric: str | MetricFunction = "logit_diff",
    answer: str | int | Sequence[str | int] | None = None,
    wrong: str | int | Sequence[str | int] | None = None,
    steps: int = 256,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Divide what a sublayer's output does for the answer among the tokens that it writes at.

    With ``c_t`` what the sublayer adds to the stream at token ``t``, ``b`` its mean over the
    text's tokens and ``F`` the metric as a function of all that the sublayer adds, everything
    before it held, ``attribution_t`` is ``(c_t - b)`` times the mean of ``dF/dc_t`` along the
    straight way from ``b`` to ``c``. Over tokens they sum up to ``F(c) - F(b)`` (completeness),
    which is ``change``.

    Parameters
    ----------
    metric
    answer
    wrong
    steps
        At how many places of the way the gradient is taken at most: the nodes of Gauss-Legendre,
        16 of them, then 64, and so on, until the sum is complete within 1 %. Published are 256
        even steps.
    layers
        Sublayers of which layers; None for all.
    seed
        Of the random directions.
    memory_limit

    Notes
    -----
    ``missed`` is ``change`` less the sum of the attributions, and the check fails where it is
    above 1 % of the largest change: ask for more ``steps``, or for ``logit_diff``, which does not
    jump as a probability does. ``steps_used`` says how many a sublayer took. ``change_chance`` is
    the control: the metric's change when the output is moved as far at each token in a random
    direction. A ``change`` that is no larger says that any change of that size does as much.
    Published with the summed probability of all tokens of an answer: give a function from logits.

    Raises
    ------
    InputError
        An option does not fit, or the metric has no derivative.
    SiteError
        The blocks have no sublayer whose output can be watched.
    ModelError
        The model has no head, or no gradients.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.integrated_gradients(model, "cat dog owl cat", ).data
    >>> bool(abs(found.attribution.sum("position") - found.change).max() < 0.2)
    True
    """
    if whole(steps, "steps") < 1:
        raise InputError(f"steps is {steps}; expected 1 or more.")
    units = _units(model, layers)
    texts = len(tokens.ids)
    answers, others = (one_each(v, texts, n) for v, n in ((answer, "answer"), (wrong, "wrong")))
    cells = Cells(model, tokens)
    sublayers = {
        "sublayer": (_ROW, np.array([unit_name(unit) for unit in units])),
        "sublayer_layer": (_ROW, np.array([unit.layer for unit in units], dtype=np.int32)),
    }
    job.declare({"sublayer": len(units), **cells.sizes()}, {**sublayers, **cells.coords()})
    work = _Attributed(job, model, units, (texts, cells.sizes()["position"]), (seed, steps))
    sites = [Site(f"{unit.part}_out", unit.layer) for unit in units]
    for row in range(texts):
        with torch.no_grad():
            base = record_base(model, row_of(tokens, row), sites)
            pair = {"answer": answers[row], "wrong": others[row]}
            how = make_metric(model, metric, final=base.final, **pair)
        if not how.smooth:
            raise InputError("A rank has no derivative: use logit_diff, logit or probability.")
        measure = (how, base.at)
        paths = PathGradients(model, base.tokens, measure, FEWEST + 2, memory_limit, job.tick)
        work.text(row, base, paths)
    work.finish(how.words)


def _value(metric: Metric, final: Tensor) -> float:
    with torch.no_grad():
        return float(metric(final[None])[0])


def _units(model: LensModel, layers: Sequence[int] | None) -> list[Unit]:
    wanted = set(model.layers(layers))
    return [unit for unit in units_of(model) if unit.layer in wanted]


class _Attributed:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        units: list[Unit],
        shape: tuple[int, int],
        how: tuple[int, int],
    ) -> None:
        self.job, self.model, self.units = job, model, units
        self.seed, self.steps = how
        self.texts, self.width = shape
        self.blocks = 0
        self.missed = self.largest = self.own = 0.0

    def text(self, row: int, base: Base, paths: PathGradients) -> None:
        """Every sublayer of one text."""
        lead = {"batch": row} if self.job.batched else {}
        clean = paths.clean
        self.own = max(self.own, abs(clean - _value(paths.metric, base.final)))
        for place, unit in enumerate(self.units):
            site = Site(f"{unit.part}_out", unit.layer)
            given = base.trace[site][0].detach().clone()
            off = given - given.mean(0)
            found, steps = self._along(paths, site, off, (row, place))
            change = clean - found.baseline
            missed = change - float(found.attribution.sum())
            self.missed = max(self.missed, abs(missed))
            padded = np.full(self.width, np.nan)
            padded[: len(found.attribution)] = found.attribution.numpy()
            arrays = {
                "attribution": padded,
                "change": np.array(change),
                "change_chance": np.array(clean - found.moved),
                "steps_used": np.array(steps),
                "missed": np.array(missed),
            }
            self.job.emit({**lead, "sublayer": place}, arrays)
            done = row * len(self.units) + place + 1
            self.job.progress(done, self.texts * len(self.units), unit_name(unit))
        self.blocks += paths.blocks

    def _along(
        self, paths: PathGradients, site: Site, off: Tensor, key: tuple[int, int]
    ) -> tuple[Along, int]:
        """Integrate with more and more steps, until the sum is complete; and with how many."""
        random, count, clean = self._moved(off, key), min(FEWEST, self.steps), paths.clean
        while True:
            found = paths.along(site, off, random, count)
            change = clean - found.baseline
            self.largest = max(self.largest, abs(change))
            enough = max(WITHIN * self.largest, tolerance(self.model))
            if abs(change - float(found.attribution.sum())) <= enough or count == self.steps:
                return found, count
            count = min(TIMES * count, self.steps)

    def _moved(self, off: Tensor, key: tuple[int, int]) -> Tensor:
        """As far at each token, in random directions."""
        random = np.random.default_rng((self.seed, *key)).standard_normal(tuple(off.shape))
        way = torch.from_numpy(random).to(off.device, torch.float32)
        moved: Tensor = way / way.norm(dim=-1, keepdim=True) * off.norm(dim=-1, keepdim=True)
        return moved.to(off)

    def finish(self, words: str) -> None:
        """Say what was measured, and whether the sums are complete."""
        self.job.note(
            passes=1 + self.blocks / self.model.n_layers / self.texts,
            method="Gauss-Legendre along the way from the mean output; runs begin at the layer",
            metric_words=words,
        )
        limit = max(WITHIN * self.largest, tolerance(self.model))
        what = "what attributions miss of the change that they divide, at most"
        self.job.check("completeness", self.missed, limit, what)
        if self.missed > limit:
            self.job.remark("The sums are not complete: ask for more steps.")
        what = "the metric of the text by blocks called one by one, against its pass"
        self.job.check("blocks equal the pass", self.own, tolerance(self.model) * 10, what)
