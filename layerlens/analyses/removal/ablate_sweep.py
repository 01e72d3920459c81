"""Ablation: remove one part of a model at a time, and see what the answer loses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.removal.ablated_cell import open_ablated
from layerlens.analyses.removal.removable_parts import Units
from layerlens.analyses.removal.replacements import Output, Replacement
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.analyses.sweeps.over_bases import Average, Sampled
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.run.base import Base, record_base
from layerlens.run.cell import Cell
from layerlens.run.many_edits import DEFAULT_LIMIT, Method

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric, MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

HOW = ("mean", "zero", "resample")

_GRID = ("layer", "head?", "neuron?")
VARIABLES = {
    "effect": Variable(
        _GRID, "float32", "1", "change of the metric when this part is removed", signed=True
    ),
    "metric": Variable(_GRID, "float32", "1", "metric without this part", signed=True),
    "standard_error": Variable(_GRID, "float32", "1", "standard error of the effect over draws"),
    **{
        f"effect_{end}": Variable(_GRID, "float32", "1", words, summary=True)
        for end, words in (
            ("mean", "change of the metric, mean over texts"),
            ("low", "change of the metric, 2.5 % of the bootstrap over texts"),
            ("high", "change of the metric, 97.5 % of the bootstrap over texts"),
        )
    },
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    unit: str,
    how: str,
    layers: Any,
    neurons: Any,
    draws: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call. Cells count for what they can change."""
    units = Units(model, unit, model.layers(layers), neurons)
    texts, length = tokens.ids.shape
    times = texts * (draws if how == "resample" else 1)
    cells = [1 - part.layer / model.n_layers for part in units]
    size = 3 * length * model.d_model * model.n_layers * 4
    return Work(2 * texts + times * (1 + sum(cells)), times * len(cells), size)


@analysis(
    name="ablate_sweep",
    question="Which heads, layers, sublayers or neurons does the answer need?",
    source=(
        "Michel et al., Are Sixteen Heads Really Better than One? (2019); Wang et al., "
        "Interpretability in the Wild (2022), for means; Chan et al., Causal Scrubbing (2022), "
        "for resampling"
    ),
    cost="1 pass a text and reference, plus an edited run for each part (and draw)",
    view="grid",
    lead="A cell is the change of the answer's metric when that part is taken out: red parts "
    "helped the answer, blue ones stood in its way.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    effects={
        "reference": among("how", "mean", "resample"),
        "by_position": among("how", "mean"),
        "draws": among("how", "resample"),
        "seed": among("how", "resample"),
        "neurons": among("unit", "neuron"),
    },
    opens=open_ablated,
)
def ablate_sweep(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    unit: str = "head",
    how: str = "mean",
    reference: Any = None,
    by_position: bool = False,
    draws: int = 10,
    seed: int = 0,
    positions: Any = None,
    layers: Any = None,
    neurons: Any = None,
    metric: str | MetricFunction = "logit_diff",
    answer: str | int | list[str | int] | None = None,
    wrong: str | int | list[str | int] | None = None,
    verify: int = 2,
    method: Method = "auto",
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Remove parts of the model one at a time.

    Parameters
    ----------
    unit
        ``head`` (its z), ``attn`` or ``mlp`` (what the sublayer adds to the stream), ``layer``
        (what the whole block adds), ``neuron`` (its activation; all neurons of all layers are
        many, so choose ``layers``).
    how
        What takes the place of its output: ``mean`` over the reference, ``zero`` (often far from
        anything the model ever sees), or ``resample``: the output in another text, at the same
        position (at a random one where that text is shorter), averaged over ``draws``.
    reference
        Texts for ``mean`` and ``resample``. None: the texts given, if there are several; for
        one text the mean is over its own positions, and ``resample`` asks for a reference.
    by_position
        A mean for each position instead of one over all positions of the reference.
    draws, seed
        How many texts are drawn (each draw serves all parts), and with which seed.
    positions
        Where parts are removed: an index, a slice, a list or the text of a span; None for
        everywhere.
    layers, neurons
        Which; None for all.
    metric
    answer
    wrong
    verify
    method
    memory_limit

    Notes
    -----
    ``effect`` is the metric without the part less the metric with it: below zero where the part
    helps. For several texts ``effect_mean`` is its mean, with a 95 % bootstrap interval.
    ``standard_error`` is NaN except for ``resample``. The attribute ``replaced_by`` says what
    was put in.

    Raises
    ------
    InputError
        An option does not fit, or there is no reference to resample from.
    SiteError
        The model has no such parts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> heads = ll.ablate_sweep(model, [1, 2, 3, 4, 1], how="zero")
    >>> heads.data.effect.dims
    ('layer', 'head')
    """
    if how not in HOW:
        raise nearest(how, list(HOW), "how of ablate_sweep:")
    if draws < 1:
        raise InputError(f"draws is {draws}; expected at least 1.")
    units = Units(model, unit, model.layers(layers), neurons)
    texts = [row_of(tokens, row) for row in range(len(tokens.ids))]
    answers, wrongs = one_each(answer, len(texts), "answer"), one_each(wrong, len(texts), "wrong")
    replacement = Replacement(job, units, texts, reference, how, by_position, draws, seed)
    _declare(job, units, len(texts))
    found = []
    for row, text in enumerate(texts):
        first = [site for site in units.sites() if site.block == units.layers[0]]
        base = record_base(model, text, first)
        measure = make_metric(
            model, metric, final=base.final, answer=answers[row], wrong=wrongs[row]
        )
        where = model.positions(text, positions)
        if not where:
            raise InputError(f"positions={positions!r} names no position: name at least one.")
        removal = _Removal(job, units, base, measure, where, (row, len(texts)))
        outputs = replacement.outputs(row, where)
        removal.run(outputs, replacement.draws, verify, method=method, memory_limit=memory_limit)
        found.append(removal)
        _note(job, found, replacement)
    if job.batched:
        _summarise(job)


def _declare(job: Job, units: Units, texts: int) -> None:
    sizes = {"layer": len(units.layers), **{name: len(ids) for name, ids in units.axis.items()}}
    if job.batched:
        sizes["batch"] = texts
    axes = {"layer": units.layers, **units.axis}
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        name: ((name,), np.array(values, dtype=np.int32)) for name, values in axes.items()
    }
    job.declare(sizes, coords)
    if not units.axis:
        job.note(view="curves")


class _Removal:
    """Every unit removed from the run of one text."""

    def __init__(
        self,
        job: Job,
        units: Units,
        base: Base,
        measure: Metric,
        where: Sequence[int],
        share: tuple[int, int],
    ) -> None:
        self.job, self.units, self.base, self.measure = job, units, base, measure
        self.where, self.share = where, share
        self.value = float(measure(base.final.unsqueeze(0))[0])
        self.average = Average(self._arrays)
        self.passes, self.method = 1.0, ""

    def _arrays(self, mean: np.ndarray, error: np.ndarray) -> dict[str, np.ndarray]:
        return {"effect": mean + 0.0, "metric": mean + self.value, "standard_error": error}

    def run(self, outputs: Iterator[Output], draws: int, verify: int, **how: Any) -> None:
        """Remove every unit, once for each draw."""
        row, texts = self.share
        for draw, output in enumerate(outputs):
            sweep = Sampled(
                self.job,
                self.units.model,
                self.base,
                self.measure,
                self.average,
                lead={"batch": row} if self.job.batched else {},
                share=(row * draws + draw, texts * draws),
                **how,
            )
            values = {layer: output(layer) for layer in self.units.layers}
            for part in self.units:
                change = self.units.change(part, self.base, values[part.layer], self.where)
                sweep.add(Cell((change,)), part.place)
            own = sweep.add(self._nothing(), None)
            for gap in self.units.gaps() if draw == 0 else ():
                sweep.fill(gap, np.nan)
            sweep.run()
            if draw == 0:
                self._check(sweep, own, verify)
            self.passes += sweep.passes
            self.method = sweep.method

    def _nothing(self) -> Cell:
        """A cell in which a unit keeps its own output."""
        part = next(iter(self.units))
        value = self.units.output(self.base.trace, part.layer)[list(self.where)]
        return Cell((self.units.change(part, self.base, value, self.where),))

    def _check(self, sweep: Sampled, own: int, verify: int) -> None:
        error = abs(float(sweep.values[own]) - self.value)
        text = f" of text {self.share[0]}" if self.job.batched else ""
        what = "metric with the first part replaced by its own output, less the plain one"
        self.job.check(f"own output changes nothing{text}", error, sweep.tolerance, what)
        sweep.verify(verify)


def _note(job: Job, found: Sequence[_Removal], replacement: Replacement) -> None:
    """Say what was measured so far, and how."""
    first = found[0]
    assert job.parts is not None
    for name in job.parts.variables:
        job.describe(name, units=first.measure.units)
    kept: dict[str, list[Any]] = {
        "clean_metric": [removal.value for removal in found],
        "answer": [removal.measure.answer for removal in found],
    }
    if first.measure.wrong is not None:
        kept["wrong"] = [removal.measure.wrong for removal in found]
    job.note(
        metric=first.measure.name,
        metric_words=first.measure.words,
        unit=first.units.unit,
        replaced_by=replacement.words,
        direction="the output of each part is replaced, effect is the metric without it less with",
        method=", ".join(dict.fromkeys(removal.method for removal in found)),
        passes=replacement.passes + sum(removal.passes for removal in found),
        **{name: json.dumps(v) if job.batched else v[0] for name, v in kept.items()},
    )


def _summarise(job: Job) -> None:
    """Mean over texts, with its interval."""
    assert job.parts is not None
    three = mean_interval(job.parts.arrays["effect"])
    names = (f"effect_{end}" for end in ("mean", "low", "high"))
    job.emit({}, dict(zip(names, three, strict=True)))
