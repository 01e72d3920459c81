"""A path of neurons: one a layer, chosen by what they do for the answer together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_names import text_names
from layerlens.analyses.texts.text_pair import row_of
from layerlens.analyses.tracing.neuron_path_cell import open_neuron_path
from layerlens.analyses.tracing.neuron_path_run import Choice, NeuronPaths, Path, PathText
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.gradients import GRADIENT_PASSES
from layerlens.run.many_edits import DEFAULT_LIMIT
from layerlens.run.where import neurons_of

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MEASURES = ("completeness", "reference")
PATHS = ("chosen", "own gradient x activation", "largest activation", "random")
STATES_BACK, NEURONS_BACK = 13, 4
"""Numbers that a block keeps of each token for its way back, in widths of states and of neurons."""
WITHIN = 0.01
"""Share of the terms that may be missing from what removal costs."""

_CHANGE = "change of the metric with the path up to this layer at 0"
_EACH = "change of the metric with the whole path at 0, text by text"
_TOGETHER = "joint attribution of the path up to this layer"
VARIABLES = {
    **with_interval(
        "change", Variable(("path", "layer"), "float64", "1", _CHANGE, signed=True), "random paths"
    ),
    **with_interval(
        "others_change",
        Variable(("path", "layer"), "float64", "1", f"{_CHANGE}, other texts", signed=True),
        "random paths",
    ),
    "text_change": Variable(("path", "text"), "float64", "1", _EACH, signed=True),
    "others_text_change": Variable(
        ("path", "other_text"), "float64", "1", f"{_EACH}, other texts", signed=True
    ),
    "term": Variable(
        ("layer",), "float64", "1", "what each neuron adds to the attribution", signed=True
    ),
    "joint": Variable(("layer",), "float64", "1", _TOGETHER, signed=True),
    "neuron": Variable(("path", "layer"), "int32", "1", "number of the neuron", hidden=True),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Any,
    steps: int,
    measure: str,
    candidates: int,
    draws: int,
    others: Any,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    chosen, texts = len(_layers(model, layers)), len(tokens.ids)
    one = GRADIENT_PASSES * steps
    tried = candidates * (1 if measure == "completeness" else one)
    several = isinstance(others, list) and not all(isinstance(one, int) for one in others)
    elsewhere = len(others) if several else int(others is not None)
    removed = (3 + draws) * (1 + elsewhere / texts)
    passes = chosen * (one + tried + removed) + one + GRADIENT_PASSES + 2
    return Work(passes, round(texts * passes), _held(model, _layers(model, layers), tokens))


def _held(model: LensModel, layers: Sequence[int], tokens: Tokens) -> int:
    """Bytes of one text's way back, and of what all texts keep: states, neurons of the layers."""
    wide = [neurons_of(model, layer) for layer in layers]
    neurons, states = round(float(np.mean(wide))), model.n_layers * model.d_model
    # What the blocks keep for the way back was measured, see the test.
    back = STATES_BACK * states + NEURONS_BACK * model.n_layers * neurons
    kept = len(tokens.ids) * (2 * states + sum(wide))
    return tokens.ids.shape[1] * (back + kept) * model.dtype.itemsize


@analysis(
    name="neuron_path",
    question="Which neurons, one a layer, carry an answer together?",
    source="Wang et al. (2025), Discovering Influential Neuron Path in Vision Transformers, arXiv "
    "2503.09046; complete form: Sundararajan, Taly and Yan (2017), Axiomatic Attribution for Deep "
    "Networks, arXiv 1703.01365",
    cost="for each layer a pass and its way back for each step, a run for each candidate and path",
    view="curves",
    lead="Along a line, each layer sets one more neuron to 0. The chosen path says something where "
    "it falls below the others: in the text, and in other texts too.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    needs=("head", "gradients"),
    pooled=True,
    opens=open_neuron_path,
)
def neuron_path(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    metric: str | MetricFunction = "logit_diff",
    answer: str | int | list[str | int] | None = None,
    wrong: str | int | list[str | int] | None = None,
    layers: Any = None,
    positions: Any = None,
    steps: int = 20,
    measure: str = "completeness",
    candidates: int = 4,
    others: Any = None,
    others_answer: str | int | list[str | int] | None = None,
    others_wrong: str | int | list[str | int] | None = None,
    draws: int = 8,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Choose one MLP neuron a layer, layer by layer, and set the path to 0.

    With ``w`` the activations of a path's neurons in the text and ``F`` the metric when they are
    held at ``share * w``, all at once, the attribution of the path is the integral of its slope
    over shares from 0 to 1. Each layer adds the neuron that makes it largest, given those before.

    Parameters
    ----------
    metric
    answer
    wrong
    layers
        Which have a neuron of the path; None for all.
    positions
        Where neurons are scaled and set to 0: an index, a slice, a list or the text of a span;
        None for where the text is answered.
    steps
        How many shares there are.
    measure
        ``completeness``: the sum over neurons of activation times mean derivative (midpoints),
        which is the metric as it is less that with the path at 0. ``reference``: the sum of
        derivatives times the sum of activations (left ends), as in the published code, which
        is no such difference.
    candidates
        For how many neurons of a layer the attribution of the whole path is computed.
    others
        Texts that the path is not chosen on; None for none.
    others_answer, others_wrong
        Of these, one or one each, as ``answer`` and ``wrong``.
    draws
        How many random paths there are.
    seed
        Of their draw.
    memory_limit

    Notes
    -----
    Of several texts ``F`` is the mean of their metrics, and there is one path for all;
    ``text_change`` and ``others_text_change`` say what its removal does in each, and a cell of them
    opens that text. Any other cell opens the first.

    Exact are ``joint``, ``term`` (the completeness form, of the whole path) and every ``change``,
    which comes from runs. The candidates of a layer are found by an estimate: their own
    derivatives with the path so far scaled and themselves free. A greedy path need not be the best.

    The other paths are found in the text as it is: by the largest product of activation and
    derivative, by the largest magnitude of activation, and at random (mean, and 95 % of
    ``draws``). Most random neurons are near 0 in a text, so that the first two are the harder
    comparison. The choice one by one, joint scaling and product of sums are the source's; the
    complete form, exact candidates and other texts are ours. It was published for ViT-B.

    Raises
    ------
    InputError
        An option does not fit, or the metric has no derivative.
    SiteError
        No layer has neurons that could be watched.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.neuron_path(model, "cat dog owl cat", answer="dog", wrong="owl", draws=2)
    >>> found.data.change.dims, found.checks.ok
    (('path', 'layer'), True)
    """
    if measure not in MEASURES:
        raise nearest(measure, list(MEASURES), "measure of neuron_path:")
    for name, count in (("steps", steps), ("candidates", candidates), ("draws", draws)):
        if whole(count, name) < 1:
            raise InputError(f"{name} is {count}; expected 1 or more.")
    if others is None and (others_answer is not None or others_wrong is not None):
        raise InputError("There are answers for other texts but no texts: give others=[...].")
    chosen = _layers(model, layers)
    run = _runs(job, model, tokens, chosen, positions, metric, (answer, wrong), steps, memory_limit)
    tried = [run]
    if others is not None:
        more, asked = job.tokens(others, like=tokens), (others_answer, others_wrong)
        tried.append(_runs(job, model, more, chosen, positions, metric, asked, steps, memory_limit))
    _declare(job, chosen, tried, measure)
    rows = _other_paths(run, chosen, draws, np.random.default_rng(seed))
    path: Path = ()
    for place, layer in enumerate(chosen):
        path, joint = Choice(run, measure, candidates).next(path, layer)
        paths = [path, *(row[: place + 1] for row in rows)]
        numbers = np.array([*(one[-1][1] for one in paths[:3]), -1], dtype=np.int32)
        found = {"joint": np.array(joint), "neuron": numbers}
        for name, texts in zip(("", "others_"), tried, strict=False):
            each = texts.changes_by_text(paths)
            found.update(_with_random(f"{name}change", each.mean(0)))
            if len(each) > 1:
                means = [*each.T[:3], each.T[3:].mean(0)]
                job.emit({}, {f"{name}text_change": np.array(means)})
        job.emit({"layer": place}, found)
        job.progress(place + 1, len(chosen), f"layer {layer}")
    _finish(job, run, path, measure)
    job.note(passes=sum(one.passes / len(one.texts) for one in tried))


def _layers(model: LensModel, layers: Any) -> list[int]:
    """Layers that have neurons."""
    asked = model.layers(layers)
    found = [layer for layer in asked if "mlp_post" in model.anatomy.blocks[layer].taps]
    if not found:
        model.anatomy.tap(Site("mlp_post", asked[0]))  # raises, and says why
    return sorted(found)


def _runs(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    layers: Sequence[int],
    positions: Any,
    metric: str | MetricFunction,
    asked: tuple[Any, Any],
    steps: int,
    memory_limit: int,
) -> NeuronPaths:
    """Record texts as they are."""
    count = len(tokens.ids)
    answers, wrongs = (
        one_each(given, count, name) for given, name in zip(asked, ("answer", "wrong"), strict=True)
    )
    sites, texts = [Site("mlp_post", layer) for layer in layers], []
    for row in range(count):
        job.tick()
        base = record_base(model, row_of(tokens, row), sites)
        how = make_metric(model, metric, final=base.final, answer=answers[row], wrong=wrongs[row])
        if not how.smooth:
            raise InputError("A rank has no derivative: use logit_diff, logit or probability.")
        where = [base.at] if positions is None else model.positions(base.tokens, positions)
        if not where:
            raise InputError(f"positions={positions!r} names no position: name at least one.")
        plain = float(how(base.final[None])[0])
        texts.append(PathText(base, how, tuple(where), plain))
    return NeuronPaths(model, texts, steps, memory_limit, job.tick)


def _declare(job: Job, layers: Sequence[int], tried: Sequence[NeuronPaths], measure: str) -> None:
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "layer": (("layer",), np.array(layers, dtype=np.int32)),
        "path": (("path",), np.array(PATHS)),
    }
    names = [name for name in VARIABLES if len(tried) > 1 or not name.startswith("others_")]
    for axis, run in zip(("text", "other_text"), tried, strict=False):
        if len(run.texts) > 1:
            coords[axis] = ((axis,), text_names([text.base.tokens for text in run.texts]))
        else:
            names = [name for name in names if axis not in VARIABLES[name].dims]
    # The complete attribution is what removal costs, which is drawn already.
    hidden = ["joint"] if measure == "completeness" else []
    job.declare({axis: len(labels) for axis, (_, labels) in coords.items()}, coords, names, hidden)
    first = tried[0].texts[0].measure
    for name in names:
        if name != "neuron":
            job.describe(name, units=first.units)
    job.note(metric=first.name, metric_words=first.words, answer=first.answer)


def _other_paths(
    run: NeuronPaths, layers: Sequence[int], draws: int, generator: np.random.Generator
) -> list[Path]:
    """Paths that were not chosen together: by gradient, by activation, and random ones."""
    products = run.products(layers, (), [1.0])
    sizes = [
        torch.stack([text.values(layer).abs().sum(0) for text in run.texts]).sum(0)
        for layer in layers
    ]
    rows = [[int(values.argmax()) for values in each] for each in (products, sizes)]
    rows += [[int(generator.integers(len(values))) for values in sizes] for _ in range(draws)]
    return [tuple(zip(layers, row, strict=True)) for row in rows]


def _with_random(name: str, changes: np.ndarray) -> dict[str, np.ndarray]:
    """Changes by path, with an interval over random ones; the others have none."""
    alone, random = changes[:3], changes[3:]
    low, high = np.quantile(random, (0.025, 0.975))
    ends = {"": random.mean(), "_low": low, "_high": high}
    return {name + end: np.array([*alone, value]) for end, value in ends.items()}


def _finish(job: Job, run: NeuronPaths, path: Path, measure: str) -> None:
    """Divide the attribution among the neurons, and hold it against true runs."""
    terms = run.terms(path)
    job.emit({}, {"term": terms})
    cost = -float(run.changes([path])[0])
    sizes = [1.0, *(abs(text.plain) for text in run.texts)]
    logits = [text.base.logits for text in run.texts]
    sizes += [float(row[row.isfinite()].abs().max()) for row in logits if row is not None]
    rounding = logit_tolerance(run.model.dtype) * max(sizes)
    limit = WITHIN * float(np.abs(terms).sum()) + rounding
    what = "sum of the terms, less what setting the path to 0 costs in true runs"
    job.check("completeness", abs(float(terms.sum()) - cost), limit, what)
    if abs(float(terms.sum()) - cost) > limit:
        job.remark("The terms do not add up to what removal costs: ask for more steps.")
    what = "change of the metric with the path held at its own activations"
    job.check("own values change nothing", abs(run.kept(path)), rounding, what)
    job.note(
        method=f"{measure}; {run.steps} steps",
        texts=len(run.texts),
        neurons=", ".join(f"{layer}.{number}" for layer, number in path),
    )
