"""Causal tracing: spoil the subject of a prompt, restore one state, and see what comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Dose, Job, Variable, Work, analysis
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.subjects import GROUPS, each, subject_positions
from layerlens.analyses.texts.text_pair import row_of
from layerlens.analyses.tracing.trace_text import (
    WINDOWS,
    TextTrace,
    TracePlan,
    embedding_std,
    trace_sites,
)
from layerlens.analyses.tracing.traced_cell import open_traced
from layerlens.errors import InputError
from layerlens.model.feed import TEXT_OR_PAIRS
from layerlens.run.base import record_base
from layerlens.run.many_edits import DEFAULT_LIMIT, Method

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_GRID = ("layer", "position")
_GROUP = ("group", "layer")
VARIABLES = {
    "indirect_effect": Variable(
        _GRID, "float32", "1", "indirect effect of restoring this state", signed=True
    ),
    "restored": Variable(_GRID, "float32", "1", "metric with this state restored"),
    "standard_error": Variable(
        _GRID, "float32", "1", "standard error of the indirect effect over noise samples"
    ),
    "group_effect": Variable(
        _GROUP, "float32", "1", "indirect effect, mean over a group", signed=True
    ),
    **{
        f"group_effect_{end}": Variable(_GROUP, "float32", "1", words, summary=True)
        for end, words in (
            ("mean", "average indirect effect over texts"),
            ("low", "average indirect effect, 2.5 % of the bootstrap over texts"),
            ("high", "average indirect effect, 97.5 % of the bootstrap over texts"),
        )
    },
}


def count_work(
    model: LensModel, tokens: Tokens, *, samples: int, layers: Any, positions: Any, **_: Any
) -> Work:
    """Count passes and bytes of one call; runs nothing. Cells count for what they can change."""
    chosen = model.layers(layers)
    texts = range(len(tokens.ids))
    places = sum(len(model.positions(tokens, positions, row)) for row in texts)
    length = tokens.ids.shape[1]
    share = sum(1 - layer / model.n_layers for layer in chosen) / 2
    passes = len(texts) * (1 + samples) + samples * share * places
    size = 3 * 4 * length * model.d_model * model.n_layers
    return Work(passes, samples * len(chosen) * places, size)


@analysis(
    name="causal_trace",
    question="Which state, restored, brings back the answer when the subject is spoilt by noise?",
    source="Meng et al. (2022), Locating and Editing Factual Associations in GPT, arXiv 2202.05262",
    cost="1 pass and 1 a noise sample, plus an edited run for each layer, position and sample",
    view="grid",
    lead="A cell is the state after a layer at a token, put back into a run whose subject is "
    "spoilt by noise: the stronger the blue, the more of the answer comes back.",
    reads=TEXT_OR_PAIRS,
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    opens=open_traced,
    doses=[Dose("noise", (1.0, 2.0, 3.0, 4.0, 6.0), "strength of the noise")],
)
def causal_trace(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    subject: Any = None,
    kind: str = "resid_post",
    window: int | None = None,
    noise: float = 3.0,
    samples: int = 10,
    seed: int = 1,
    layers: Any = None,
    positions: Any = None,
    metric: str | MetricFunction = "probability",
    answer: str | int | list[str | int] | None = None,
    wrong: str | int | list[str | int] | None = None,
    verify: int = 2,
    method: Method = "auto",
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Trace where the model keeps what it knows about the subject of a prompt.

    Gaussian noise is added to the token embeddings of the subject, the same samples for every
    cell: the *corrupted* runs. In a copy of each, one state (or a window of layers at one
    position) is put back to what it is in the clean run. How much of the answer's probability
    comes back, as a mean over samples, is the indirect effect; what the noise took away in all
    is the total effect.

    Parameters
    ----------
    subject
        Where noise is added: the text of a span, or positions; for several texts, a list of spans
        or of lists with one each, or a tuple of positions that are the same in every text. None:
        everything but the last token (but the mask token, where the model answers at one).
    kind
        What is restored: ``resid_post``, ``mlp_out`` or ``attn_out``.
    window
        Layers restored together around each: ``l - window // 2`` up to ``l + (window + 1) // 2 -
        1``. None: 1 for ``resid_post``, 10 for the sublayers, as in the paper; a wide window
        exaggerates how local an effect is, so look at 1 too.
    noise
        Standard deviation of the noise, as a multiple of that of all entries of the subjects'
        token embeddings (which is stated as ``embedding_std``).
    samples, seed
        Noise samples, drawn from NumPy's ``RandomState(seed)`` anew for each text.
    layers, positions
        Which cells: indices, slices, lists; positions also as the text of a span. None: all.
    metric
    answer
    wrong
    verify
    method
    memory_limit

    Notes
    -----
    Cells are emitted after the first sample and again with every further one, as means so far.
    ``clean_metric``, ``corrupt_metric`` and ``total_effect`` are attributes. For several texts
    ``group_effect_mean`` averages over texts, with a 95 % bootstrap interval.

    Raises
    ------
    InputError
        An option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> trace = ll.causal_trace(model, "cat dog owl cat", subject="dog")
    >>> trace.data.indirect_effect.dims
    ('layer', 'position')
    """
    if kind not in WINDOWS:
        raise nearest(kind, list(WINDOWS), "kind of causal_trace:")
    if samples < 1:
        raise InputError(f"samples is {samples}; expected at least 1.")
    if not noise > 0:
        raise InputError(f"noise is {noise}; expected a positive multiple.")
    plan = TracePlan(
        kind=kind,
        window=WINDOWS[kind] if window is None else window,
        samples=samples,
        seed=seed,
        layers=tuple(model.layers(layers)),
        sites=trace_sites(model, kind),
        verify=verify,
        how={"method": method, "memory_limit": memory_limit},
    )
    texts = [row_of(tokens, row) for row in range(len(tokens.ids))]
    where = each(subject, len(texts), tokens.single, "subject")
    subjects = [subject_positions(model, *pair) for pair in zip(texts, where, strict=True)]
    answers, wrongs = one_each(answer, len(texts), "answer"), one_each(wrong, len(texts), "wrong")
    cells = Cells(model, tokens, positions)
    _declare(job, cells, plan)
    clean = [record_base(model, text, [model.anatomy.entry, *plan.sites]) for text in texts]
    std = embedding_std(clean, subjects)
    job.note(embedding_std=std, noise_std=noise * std)
    traces: list[TextTrace] = []
    for row, base in enumerate(clean):
        measure = make_metric(
            model, metric, final=base.final, answer=answers[row], wrong=wrongs[row]
        )
        at = {int(cells.positions[i]): int(i) for i in cells.position[cells.text == row]}
        trace = TextTrace(job, model, base, measure, plan, subjects[row], at, (row, len(clean)))
        traces.append(trace)
        trace.run(noise * std, len(cells.positions))
        _note(job, traces)
    if job.batched:
        _summarise(job, traces)


def _declare(job: Job, cells: Cells, plan: TracePlan) -> None:
    sizes = {"layer": len(plan.layers), "group": len(GROUPS), **cells.sizes()}
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "layer": (("layer",), np.array(plan.layers, dtype=np.int32)),
        "group": (("group",), np.array(GROUPS)),
        **cells.coords(),
    }
    job.declare(sizes, coords)


def _note(job: Job, traces: Sequence[TextTrace]) -> None:
    """Say what was measured so far, and how."""
    first = traces[0]
    assert job.parts is not None
    for name in job.parts.variables:
        job.describe(name, units=first.measure.units)
    corrupted = [float(np.mean(trace.corrupted)) for trace in traces]
    kept: dict[str, list[Any]] = {
        "clean_metric": [trace.value for trace in traces],
        "corrupt_metric": corrupted,
        "total_effect": [t.value - low for t, low in zip(traces, corrupted, strict=True)],
        "answer": [trace.measure.answer for trace in traces],
    }
    job.note(
        metric=first.measure.name,
        metric_words=first.measure.words,
        site=first.plan.kind,
        window=first.plan.window,
        direction="clean states into runs whose subject embeddings are noisy",
        method=", ".join(dict.fromkeys(trace.method for trace in traces)),
        passes=sum(trace.passes for trace in traces),
        subject_positions=json.dumps([trace.subject for trace in traces]),
        **{name: json.dumps(v) if job.batched else v[0] for name, v in kept.items()},
    )


def _summarise(job: Job, traces: Sequence[TextTrace]) -> None:
    """Average indirect effects over texts, with their interval."""
    three = mean_interval(np.array([trace.groups for trace in traces]))
    names = (f"group_effect_{end}" for end in ("mean", "low", "high"))
    job.emit({}, dict(zip(names, three, strict=True)))
