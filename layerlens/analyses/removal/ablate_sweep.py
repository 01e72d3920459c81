"""Ablation: remove one part of a model at a time, and see what the answer loses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.removal.ablated_cell import open_ablated
from layerlens.analyses.removal.removable_parts import Units
from layerlens.analyses.removal.removal_run import Removal
from layerlens.analyses.removal.replacements import Replacement
from layerlens.analyses.sweeps.estimates import Agreement
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.run.base import record_base
from layerlens.run.gradients import GRADIENT_PASSES
from layerlens.run.many_edits import DEFAULT_LIMIT, Method

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
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
    "estimate": Variable(
        _GRID, "float32", "1", "change of the metric, estimated before", signed=True
    ),
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
    estimate_first: bool,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call. Cells count for what they can change."""
    units = Units(model, unit, model.layers(layers), neurons)
    texts, length = tokens.ids.shape
    times = texts * (draws if how == "resample" else 1)
    cells = [1 - part.layer / model.n_layers for part in units]
    size = 3 * length * model.d_model * model.n_layers * 4
    before = 2 + (GRADIENT_PASSES if estimate_first else 0)
    return Work(before * texts + times * (1 + sum(cells)), times * len(cells), size)


@analysis(
    name="ablate_sweep",
    question="Which heads, layers, sublayers or neurons does the answer need?",
    source="Michel, Levy and Neubig (2019), Are Sixteen Heads Really Better than One?, arXiv "
    "1905.10650; means: Wang et al. (2022), Interpretability in the Wild, arXiv 2211.00593; "
    "resampling: Chan et al. (2022), Causal Scrubbing, Alignment Forum",
    cost="1 pass a text and reference, plus an edited run for each part (and draw); an estimate "
    "before is a pass and a backward pass a text",
    view="grid",
    lead="A cell is the change of the answer's metric when that part is taken out: red parts "
    "helped the answer, blue ones stood in its way.",
    reads=ANY_KIND,
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
    estimate_first: bool = False,
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
    estimate_first
        Estimate every part by attribution patching (Nanda 2023) towards what replaces it, from a
        pass and a backward pass a text, before any is removed; then those come first that the
        estimate finds strongest, and what is finished when the sweep is stopped are the parts
        that matter most.
    method
    memory_limit

    Notes
    -----
    ``effect`` is the metric without the part less the metric with it: below zero where the part
    helps. For several texts ``effect_mean`` is its mean, with a 95 % bootstrap interval.
    ``standard_error`` is NaN except for ``resample``. The attribute ``replaced_by`` says what
    was put in.

    With ``estimate_first`` there is a variable ``estimate`` beside ``effect``, of several draws the
    mean; ``estimate_pearson`` says how well it agrees with ``estimate_cells`` true effects,
    ``estimate_pearson_strongest`` how well with the strongest tenth of them: where that is low, it
    says where to look and not which of these is stronger. Where it cannot be made (the metric or
    the model has no gradient) it is NaN, and the attribute ``no_estimate`` says why.

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
    _declare(job, units, len(texts), estimate_first=estimate_first)
    agreement = Agreement(job) if estimate_first else None
    found = []
    for row, text in enumerate(texts):
        held = units.layers if estimate_first else units.layers[:1]
        base = record_base(model, text, [site for site in units.sites() if site.block in held])
        measure = make_metric(
            model, metric, final=base.final, answer=answers[row], wrong=wrongs[row]
        )
        where = model.positions(text, positions)
        if not where:
            raise InputError(f"positions={positions!r} names no position: name at least one.")
        removal = Removal(job, units, base, measure, where, (row, len(texts)), agreement)
        outputs = replacement.outputs(row, where)
        removal.run(outputs, replacement.draws, verify, method=method, memory_limit=memory_limit)
        found.append(removal)
        _note(job, found, replacement)
    if agreement:
        agreement.remark()
    if job.batched:
        _summarise(job)


def _declare(job: Job, units: Units, texts: int, *, estimate_first: bool) -> None:
    sizes = {"layer": len(units.layers), **{name: len(ids) for name, ids in units.axis.items()}}
    if job.batched:
        sizes["batch"] = texts
    axes = {"layer": units.layers, **units.axis}
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        name: ((name,), np.array(values, dtype=np.int32)) for name, values in axes.items()
    }
    filled = [name for name in VARIABLES if name != "estimate" or estimate_first]
    job.declare(sizes, coords, filled)
    if not units.axis:
        job.note(view="curves")


def _note(job: Job, found: Sequence[Removal], replacement: Replacement) -> None:
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
