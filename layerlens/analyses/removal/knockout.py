"""Attention knockout: block what a position may look at, and see what the answer loses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Dose, Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import left_out
from layerlens.analyses.removal.blocked_keys import (
    BLIND,
    Look,
    Plan,
    attending_layers,
    blind,
    blocked,
    hidden,
    looks,
    plan_of,
)
from layerlens.analyses.removal.estimated_knockouts import KnockoutEstimate
from layerlens.analyses.removal.knocked_out_cell import open_knocked_out
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.sweeps.estimates import Agreement
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.analyses.sweeps.layer_windows import window_layers
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.subjects import each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.feed import TEXT_OR_PAIRS
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.gradients import GRADIENT_PASSES
from layerlens.run.many_edits import DEFAULT_LIMIT, Method

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_GRID = ("source", "layer")
VARIABLES = {
    "percent_change": Variable(
        _GRID, "float32", "%", "change of the metric, in per cent of its value", signed=True
    ),
    "change": Variable(_GRID, "float32", "1", "change of the metric", signed=True),
    "metric": Variable(_GRID, "float32", "1", "metric with these edges blocked"),
    "estimate": Variable(
        _GRID, "float32", "%", "change in per cent, estimated before", signed=True
    ),
    **{
        f"percent_change_{end}": Variable(_GRID, "float32", "%", words, summary=True)
        for end, words in (
            ("mean", "change in per cent, mean over texts"),
            ("low", "change in per cent, 2.5 % of the bootstrap over texts"),
            ("high", "change in per cent, 97.5 % of the bootstrap over texts"),
        )
    },
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    sources: Any,
    subject: Any,
    layers: Any,
    estimate_first: bool,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing. Cells count for what they can change."""
    texts, length = tokens.ids.shape
    groups = length - 1 if sources is None and subject is None else 3
    groups = len(sources) if isinstance(sources, Mapping) else groups
    chosen = model.layers(layers)
    share = sum(1 - layer / model.n_layers for layer in chosen)
    size = 3 * length * model.d_model * model.n_layers * 4
    before = 2 + (GRADIENT_PASSES if estimate_first else 0)
    if estimate_first:  # the backward pass needs all patterns
        size += 2 * length**2 * model.n_heads * model.n_layers * model.dtype.itemsize
    return Work(texts * (before + groups * share), texts * groups * len(chosen), size)


@analysis(
    name="knockout",
    question="Between which layers does the answer need to look at these tokens?",
    source="Geva et al. (2023), Dissecting Recall of Factual Associations in Auto-Regressive "
    "Language Models, arXiv 2304.14767",
    cost="2 passes, plus an edited run for each source and layer; an estimate before is a pass and "
    "a backward pass a text",
    view="curves",
    lead="At each layer the answer's position may not look at these tokens: where a curve "
    "dips, what it needs is read there.",
    reads=TEXT_OR_PAIRS,
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal"),
    doses=[Dose("window", (1, 3, 5, 9, 15), "layers blocked together")],
    effects={"subject": left_out("sources")},
    opens=open_knocked_out,
)
def knockout(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    sources: Any = None,
    subject: Any = None,
    query: Any = -1,
    window: int = 9,
    layers: Any = None,
    metric: str | MetricFunction = "probability",
    answer: str | int | list[str | int] | None = None,
    wrong: str | int | list[str | int] | None = None,
    verify: int = 2,
    estimate_first: bool = False,
    method: Method = "auto",
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Block attention from a position to groups of earlier ones, in windows of layers.

    Scores from the query to the keys of a group become minus infinity in every head of the
    window's layers; what is left of each row is renormalised by the softmax, other rows keep
    theirs. The metric is that of the last position.

    Parameters
    ----------
    sources
        Name to positions (an index, a list, a slice or the text of a span): groups that are
        blocked together. For several texts one such mapping for all, or a list with one each
        (with the same names). None: the three groups of the paper if a ``subject`` is given
        (``subject``, ``other`` and ``last``, the query itself), else each position before the
        query on its own.
    subject
        The text of a span or positions; for several texts, a list of spans or of lists with one
        each, or a tuple of positions that are the same in every text.
    query
        The position that is blocked from looking; the last one by default.
    window
        Layers blocked together around each: ``l - window // 2`` up to ``l + (window + 1) // 2 -
        1``, clipped.
    layers
        Which layers to centre windows on; None for all.
    metric
    answer
    wrong
    verify
    estimate_first
        Estimate every cell by the derivative of the metric by the patterns before any is run;
        then those come first that the estimate finds strongest.
    method
    memory_limit

    Notes
    -----
    ``percent_change`` is ``100 (m - m0) / |m0|``, with m0 the metric of the unchanged run. For
    several texts ``percent_change_mean`` is the mean of these, with a 95 % bootstrap interval.
    Layers without softmax attention have nothing to block.

    With ``estimate_first`` there is a variable ``estimate`` beside it, in the same units; NaN where
    a cell needs no run. What is left of each row of the patterns counts in full, what follows it
    and what blocked layers do to each other to first order. The attributes ``estimate_pearson``,
    ``estimate_cells`` and ``estimate_pearson_strongest`` say how well it agrees, as in
    ``ll.patch_sweep``; ``no_estimate`` says why there is none.

    Raises
    ------
    InputError
        An option does not fit, or a group holds every position that the query sees.
    SiteError
        The model has no attention whose scores can be changed.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> curves = ll.knockout(model, "cat dog owl cat", subject="dog")
    >>> curves.data.source.values.tolist()
    ['subject', 'other', 'last']
    """
    attending = attending_layers(model)
    texts = [row_of(tokens, row) for row in range(len(tokens.ids))]
    count, single = len(texts), tokens.single
    subjects = each(subject, count, single, "subject")
    given = zip(texts, each(sources, count, single, "sources"), subjects, strict=True)
    plans = [plan_of(model, text, query, wanted, named) for text, wanted, named in given]
    names = list(dict.fromkeys(name for plan in plans for name in plan.groups))
    centres = model.layers(layers)
    _declare(job, names, centres, count, estimate_first=estimate_first)
    windows = [window_layers(layer, window, model.n_layers) for layer in centres]
    heads = [[layer for layer in around if layer in attending] for around in windows]
    answers, wrongs = one_each(answer, count, "answer"), one_each(wrong, count, "wrong")
    agreement = Agreement(job) if estimate_first else None
    found = []
    extra = 0.0
    for row, (text, plan) in enumerate(zip(texts, plans, strict=True)):
        base = record_base(model, text)
        measure = make_metric(
            model, metric, final=base.final, answer=answers[row], wrong=wrongs[row]
        )
        value = float(measure(base.final.unsqueeze(0))[0])
        sweep = Sweep(
            job,
            model,
            base,
            measure,
            _Shown(value),
            lead={"batch": row} if job.batched else {},
            share=(row, count),
            method=method,
            memory_limit=memory_limit,
            done=agreement.note if agreement else None,
        )
        seen = looks(model, text, plan.query, attending)
        planned = _add_cells(sweep, plan, names, heads, seen)
        nothing = _add_check(sweep, plan, attending)
        promise = None
        if agreement:
            estimate = KnockoutEstimate(model, base, measure, plan.query, seen)
            promise = _promise(sweep, agreement, estimate, planned, row)
            extra += estimate.passes
        sweep.run(promise)
        _check(job, sweep, nothing, row)
        sweep.verify(verify)
        found.append(sweep)
        _note(job, found, plans, window, extra)
    if agreement:
        agreement.remark()
    if job.batched:
        _summarise(job)


def _declare(
    job: Job, names: Sequence[str], layers: Sequence[int], texts: int, *, estimate_first: bool
) -> None:
    sizes = {"source": len(names), "layer": len(layers)}
    if job.batched:
        sizes["batch"] = texts
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "source": (("source",), np.array(names)),
        "layer": (("layer",), np.array(layers, dtype=np.int32)),
    }
    filled = [name for name in VARIABLES if name != "estimate" or estimate_first]
    job.declare(sizes, coords, filled)


@dataclass(frozen=True)
class _Shown:
    """From values of the metric to the arrays of the result."""

    value: float

    def __call__(self, values: np.ndarray) -> dict[str, np.ndarray]:
        change = values - self.value
        with np.errstate(divide="ignore", invalid="ignore"):
            percent = np.where(self.value == 0, np.nan, 100 * change / abs(self.value))
        return {"percent_change": percent, "change": change, "metric": values}


class _Planned(NamedTuple):
    """A cell that is run: where it stands, and what it blocks."""

    place: dict[str, int]
    keys: tuple[int, ...]
    layers: Sequence[int]


def _add_cells(
    sweep: Sweep,
    plan: Plan,
    names: Sequence[str],
    windows: Sequence[Sequence[int]],
    seen: Mapping[int, Look],
) -> list[_Planned]:
    """One cell a source and layer; what cannot change anything is filled in."""
    planned = []
    for index, name in enumerate(names):
        if name not in plan.groups:
            sweep.fill({"source": index}, np.nan)  # a position that only longer texts have
            continue
        for place, window in enumerate(windows):
            where = {"source": index, "layer": place}
            if blind(seen, plan, name, window):
                sweep.fill(where, np.nan)
                sweep.job.remark(BLIND.format(name=name))
            elif changes := blocked(plan, name, window):
                sweep.add(Cell(tuple(changes)), where)
                planned.append(_Planned(where, hidden(plan, name), window))
            else:
                sweep.fill(where, sweep.base_value)
    return planned


def _promise(
    sweep: Sweep,
    agreement: Agreement,
    estimate: KnockoutEstimate,
    planned: Sequence[_Planned],
    row: int,
) -> list[float] | None:
    """Push the estimates of one text; returns that of every cell, None where there is none."""
    job = sweep.job
    if estimate.lack:
        job.note(no_estimate=estimate.lack)
        agreement.begin(None)
        return None
    job.tick()
    changes = np.array([estimate.change(cell.keys, cell.layers) for cell in planned])
    assert job.parts is not None
    grid = np.full([job.parts.sizes[axis] for axis in _GRID], np.nan)
    for cell, change in zip(planned, changes, strict=True):
        grid[tuple(cell.place[axis] for axis in _GRID)] = change
    shown = _Shown(sweep.base_value)(grid + sweep.base_value)["percent_change"]
    job.emit({"batch": row} if job.batched else {}, {"estimate": shown.astype(np.float32)})
    agreement.begin(changes)
    return [*changes, *[0.0] * (len(sweep) - len(planned))]


def _add_check(sweep: Sweep, plan: Plan, attending: Sequence[int]) -> int:
    """A cell that recomputes the query's rows everywhere and blocks nothing; its number."""
    changes = [
        Change(Site("attn_scores", layer), "add", 0.0, positions=(plan.query,))
        for layer in attending
    ]
    return sweep.add(Cell(tuple(changes)), None)


def _check(job: Job, sweep: Sweep, nothing: int, row: int) -> None:
    error = abs(float(sweep.values[nothing]) - sweep.base_value)
    what = "metric with the query's attention recomputed and nothing blocked, less the plain one"
    text = f" of text {row}" if job.batched else ""
    job.check(f"blocking nothing changes nothing{text}", error, sweep.tolerance, what)


def _note(
    job: Job, found: Sequence[Sweep], plans: Sequence[Plan], window: int, extra: float
) -> None:
    """Say what was measured so far, and how."""
    first = found[0].metric
    for name in ("change", "metric"):
        job.describe(name, units=first.units)
    kept: dict[str, list[Any]] = {
        "clean_metric": [sweep.base_value for sweep in found],
        "answer": [sweep.metric.answer for sweep in found],
        "query": [plan.query for plan in plans],
    }
    job.note(
        metric=first.name,
        metric_words=first.words,
        window=window,
        direction="attention from the query to these positions is blocked",
        source_positions=json.dumps([plan.groups for plan in plans]),
        method=", ".join(dict.fromkeys(sweep.method for sweep in found)),
        passes=sum(2 + sweep.passes for sweep in found) + extra,
        **{name: json.dumps(v) if job.batched else v[0] for name, v in kept.items()},
    )


def _summarise(job: Job) -> None:
    """Mean over texts, with its interval."""
    assert job.parts is not None
    three = mean_interval(job.parts.arrays["percent_change"])
    names = (f"percent_change_{end}" for end in ("mean", "low", "high"))
    job.emit({}, dict(zip(names, three, strict=True)))
