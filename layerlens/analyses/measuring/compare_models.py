"""How alike the states of two models are, depth by depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.errors import InputError
from layerlens.metrics import registry
from layerlens.metrics.base import ModelShape
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics
from layerlens.metrics.similarity import COMPARISONS, Comparison
from layerlens.model.required import require_model

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_BOTH = ("point", "point_other")
VARIABLES = {
    "similarity": Variable(_BOTH, "float64", "1", "similarity of states"),
    "similarity_chance": Variable(_BOTH, "float64", "1", "similarity with tokens shuffled"),
    "best_match": Variable(
        ("point",), "int32", "1", "most similar depth of the other model, from 0"
    ),
}


def count_work(model: LensModel, tokens: Tokens, **_: Any) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    states = 2 * 1024 * (model.n_layers + 1) * model.d_model * 8
    return Work(2, 2 * len(tokens.ids), states)


def _open_pair(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    other: LensModel | None,
    metric: str,
    unit: str,
    skip_first: bool | int,
    batch_size: int | None,
    metric_options: Mapping[str, Any] | None,
) -> Opened:
    """Compare one depth with one of the other model by every measure there is."""
    own = str(place.need("point"))
    foreign = str(place.labels.get("point_other", ""))
    if not foreign:
        raise InputError("Open a cell of similarity: it is of two depths.")
    require_model(other, "other")
    assert other is not None
    mine, theirs = _made(model, other, metric, unit, metric_options)
    read = _tokens_of_other(job, model, other, tokens, unit)
    for one, fed, sample in ((model, tokens, mine), (other, read, theirs)):
        metrics = MetricSet(sample.shape, [sample], int(skip_first))
        with one.running():
            run_metrics(one, split(fed, batch_size), metrics, tick=job.tick)
    states, others = _paired(mine, theirs)
    row = list(mine.shape.coords["point"][1]).index(own)
    column = list(theirs.shape.coords["point_other"][1]).index(foreign)
    states, others = states[:, [row]], others[:, [column]]
    shuffled = others[torch.from_numpy(np.random.default_rng(0).permutation(len(others)))]
    rows = []
    for name in sorted(COMPARISONS):
        job.tick()
        measure, _ = _made(model, other, name, unit, None)
        if len(states) >= measure.fewest:
            values = [float(measure.between(states, each)[0, 0]) for each in (others, shuffled)]
            rows.append([name, *values])
    return Opened(
        title=f"{own} of {model.name} and {foreign} of {other.name}, {len(states)} {unit}s",
        code=place.call,
        tables=[Table(["measure", "similarity", "with tokens shuffled"], rows)],
    )


@analysis(
    name="compare_models",
    question="Which depth of another model is most like each depth of this one?",
    source="Kornblith et al. (2019) and others, named at each metric",
    cost="1 pass of each model",
    view="grid",
    lead="A cell compares a depth of this model (rows) with a depth of the other (columns): "
    "the ridge of high values says which depths do alike.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    opens=_open_pair,
)
def compare_models(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    other: LensModel | None = None,
    metric: str = "cka",
    unit: str = "token",
    skip_first: bool | int = True,
    batch_size: int | None = None,
    metric_options: Mapping[str, Any] | None = None,
) -> None:
    """Compare the states of two models (or checkpoints) at every two depths, of the same texts.

    Parameters
    ----------
    other
        The other model; its width and depth may differ.
    metric
        ``cka``, ``svcca``, ``pwcca``, ``rsa``, ``procrustes`` or ``mutual_neighbours``; see
        ``ll.metrics()``.
    unit
        ``token``: sampled tokens are compared, so both models have to read the same ids.
        ``text``: the mean states of texts, each model with a tokenizer of its own; give strings.
    skip_first
        Leave out the first token of each text, or so many.
    batch_size
    metric_options
        Options of the metric, such as ``{"sample": 512}``.

    Notes
    -----
    ``similarity_chance`` is the same with the tokens of the other model shuffled (seed 0): what
    the metric says where nothing corresponds. ``best_match`` is the index of the most similar
    ``point_other``, -1 where nothing is known.

    Raises
    ------
    InputError
        The other model does not fit, an option does not, or too few tokens are left.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> text = [5, 9, 5, 3, 7, 1, 4, 4]
    >>> ll.compare_models(model, text, other=model).data.similarity.dims
    ('point', 'point_other')
    """
    require_model(other, "other")
    assert other is not None
    mine, theirs = _made(model, other, metric, unit, metric_options)
    read = _tokens_of_other(job, model, other, tokens, unit)
    _declare(job, metric, mine, theirs)
    total, done = model.n_layers + other.n_layers, [0]

    def run(one: LensModel, fed: Tokens, sample: Comparison) -> None:
        batches = split(fed, batch_size)

        def step(_: Any) -> None:
            done[0] += 1
            job.progress(done[0], total * len(batches))

        metrics = MetricSet(sample.shape, [sample], int(skip_first))
        with one.running():
            run_metrics(one, batches, metrics, tick=job.tick, on_layer=step)

    run(model, tokens, mine)
    run(other, read, theirs)
    states, others = _paired(mine, theirs)
    found = mine.between(states, others)
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(len(others)))
    known = np.isfinite(found).any(1)
    best = np.where(known, np.nan_to_num(found, nan=-np.inf).argmax(1), -1).astype(np.int32)
    chance = mine.between(states, others[shuffled])
    job.emit({}, {"similarity": found, "similarity_chance": chance, "best_match": best})
    job.note(metric=metric, other=other.name, unit=unit, compared=len(states), passes=2)
    itself = mine.between(states[:, -1:])[0, 0]
    job.check("itself", abs(1 - itself), 1e-6, "1 less the similarity of the last state to itself")


def _made(
    model: LensModel, other: LensModel, metric: str, unit: str, given: Mapping[str, Any] | None
) -> tuple[Comparison, Comparison]:
    """A metric for each of the two."""
    if metric not in COMPARISONS:
        registry.every()  # metrics are known once they are imported
    if metric not in COMPARISONS:
        raise InputError(f"metric is {metric!r}; expected one of {', '.join(sorted(COMPARISONS))}.")
    options = {**(given or {}), "unit": unit}
    one, two = (registry.make(metric, m, ModelShape.of(m), options) for m in (model, other))
    assert isinstance(one, Comparison)
    assert isinstance(two, Comparison)
    return one, two


def _tokens_of_other(
    job: Job, model: LensModel, other: LensModel, tokens: Tokens, unit: str
) -> Tokens:
    """What the other model reads: the same ids, or the same texts in its own tokens."""
    if unit == "text":
        texts = [text for text in tokens.texts if isinstance(text, str)]
        if len(texts) < len(tokens.ids):
            raise InputError('unit="text" needs strings, which each model reads in its own tokens.')
        return job.tokens(texts, other, like=tokens)
    used = sorted(set(tokens.ids[tokens.mask].tolist()))
    if used[-1] >= other.d_vocab_in:
        raise InputError(
            f"{other.name} has no token {used[-1]}: both models need the same ids; or give strings "
            'and unit="text".'
        )
    if model.tokenizer is None or other.tokenizer is None:
        return tokens
    for i in used:
        if (own := model.token_string(i)) != (foreign := other.token_string(i)):
            raise InputError(
                f"Token {i} is {own!r} in {model.name} and {foreign!r} in {other.name}: both "
                'models need the same tokens; or give strings and unit="text".'
            )
    return tokens


def _declare(job: Job, metric: str, mine: Comparison, theirs: Comparison) -> None:
    own, foreign = mine.shape.coords, theirs.shape.coords
    coords = {name: own[name] for name in ("point", "point_layer")}
    coords["point_other"] = foreign["point_other"]
    coords["point_other_layer"] = (("point_other",), foreign["point_layer"][1])
    sizes = {"point": mine.shape.sizes["point"], "point_other": theirs.shape.sizes["point"]}
    job.declare(sizes, coords)
    job.describe("similarity", long_name=type(mine).outputs[metric].long_name)


def _paired(mine: Comparison, theirs: Comparison) -> tuple[Tensor, Tensor]:
    """States of what both have seen, row by row: [n, point, d_model] each."""
    _, one, two = np.intersect1d(mine.arrays["keys"], theirs.arrays["keys"], return_indices=True)
    if len(one) < mine.fewest:
        raise InputError(
            f"Only {len(one)} {mine.unit}s can be compared, and {mine.name} needs at least "
            f"{mine.fewest}: give more or longer texts."
        )
    states = (mine.arrays["states"][one], theirs.arrays["states"][two])
    return torch.from_numpy(states[0]), torch.from_numpy(states[1])
