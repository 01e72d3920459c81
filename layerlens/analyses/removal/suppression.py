"""Which late layers hold an answer back, and what comes of turning their parts down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.removal.turned_down import (
    MOST_TOKENS,
    largest_change_by_one,
    parts_of,
    turned_down,
)
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.feed import TEXT_OR_PAIRS
from layerlens.model.sites import Site
from layerlens.run.forward import forward
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

FACTORS = (1.0, 0.75, 0.5, 0.25, 0.0)
NEUTRAL = (
    "The river rises in the hills above the old town. In spring it carries melted snow, and the "
    "meadows along its banks stand under water for weeks."
)
"""The text that turning a part down should not cost anything, unless another one is given."""
TOKENS = ("answer", "runner-up")
DEFAULT_LIMIT = 400_000_000

_STEP, _DOSE = ("layer", "token"), ("factor", "part")
VARIABLES = {
    **with_interval(
        "logit_change",
        Variable(
            _STEP, "float32", "logit", "change of the token's logit by the layer", signed=True
        ),
    ),
    "falls": Variable(_STEP, "float32", "1", "share of texts whose logit the layer lowers"),
    **with_interval(
        "probability_change",
        Variable(
            _STEP, "float32", "1", "change of the token's probability", signed=True, unclipped=True
        ),
    ),
    **with_interval(
        "entropy_change",
        Variable(("layer",), "float32", "nats", "change of the entropy by the layer", signed=True),
    ),
    **with_interval(
        "answer_probability",
        Variable(_DOSE, "float32", "1", "probability of the answer, a part times a factor"),
    ),
    "accuracy": Variable(
        _DOSE, "float32", "1", "share of texts with the answer on top", unclipped=True
    ),
    "neutral_ce": Variable(
        _DOSE, "float32", "nats", "cross-entropy of the neutral text, a part times a factor"
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    parts: Sequence[str] | None,
    factors: Sequence[float],
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    texts, length = tokens.ids.shape
    cells = len(factors) * (4 if parts is None else len(parts_of(model, parts)))
    rows = texts * (model.n_layers + 1)
    logits = 2 * 4 * model.d_vocab * max(MOST_TOKENS, length)
    # The neutral text is one more, read anew for each cell.
    return Work(1 + cells + (cells + 2) / texts, rows, logits + memory_limit // 2)


@analysis(
    name="suppression",
    question="Do the last layers take away from an answer that was there already?",
    source="Lv et al. (2024), Interpreting Key Mechanisms of Factual Recall in Transformer-Based "
    "Language Models, arXiv 2403.19521",
    cost="1 pass a text, and one for each part and factor; as many for the neutral text",
    view="curves",
    lead="A layer that lowers the answer's logit, and not that of the runner-up, holds it back; a "
    "part that does so raises the answer's probability when it is turned down.",
    variables=VARIABLES,
    work=count_work,
    reads=TEXT_OR_PAIRS,
    pooled=True,
    needs=("head", "causal"),
)
def suppression(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    answer: str | int | Sequence[str | int] | None = None,
    parts: Sequence[str] | None = None,
    factors: Sequence[float] = FACTORS,
    neutral: Any = None,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Follow an answer through the layers, and turn down what may hold it back.

    The logit lens reads the state before and after each block at the end of each text; what the
    block changes of the answer's logit is compared with what it changes of the runner-up's, which
    falls too where a layer lowers all logits alike. Then what a part writes is multiplied by a
    factor everywhere, and the answer's probability is set beside the cross-entropy of an ordinary
    text: a guard against being too sure costs the one and serves the other.

    Parameters
    ----------
    answer
    parts
        Sites that are turned down, such as ``"mlp_out.29"`` or a head, ``"z.27.3"``. None: what
        attention and MLP of the last layer write and, as controls, those of a layer that is drawn
        from the others.
    factors
        0 leaves a part out, 1 changes nothing.
    neutral
        The ordinary text. None: two plain English sentences; where the tokenizer cannot read
        them the notes say so, and ``neutral_ce`` is NaN.
    seed
        Of the layer that is drawn.
    memory_limit

    Notes
    -----
    All are means over texts, with intervals over texts where there are several; ``falls`` is the
    share of texts whose logit falls by the layer. The lens is the model's own head, whose norm is
    computed anew for each state: a logit also falls where what is written only makes the state
    longer. Which part is turned down in the paper is not known to us; here it is an option.

    Raises
    ------
    InputError
        A factor is no number, or a part holds nothing that can be scaled.
    SiteError
        The model has no such part.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = ["cat dog owl cat", "fox bee hen fox"]
    >>> found = ll.suppression(model, texts, neutral="owl hen cat owl")
    >>> found.data.answer_probability.dims
    ('factor', 'part')
    """
    doses = _doses(factors)
    sites = parts_of(model, _last_and_drawn(model, seed) if parts is None else parts)
    ordinary = _ordinary(job, model, neutral)
    _declare(job, model, sites, doses)
    rows = [row_of(tokens, row) for row in range(len(tokens.ids))]
    given = one_each(answer, len(rows), "answer")
    answers = _steps(job, model, rows, given, Head.of(model, memory_limit // 2))
    found = np.zeros((2, len(rows), len(doses), len(sites)))
    for number, (row, wanted) in enumerate(zip(rows, answers, strict=True)):
        for cell, logits in turned_down(model, row, sites, doses, "last", job.tick):
            log_p = logits[-1].float().log_softmax(-1)
            found[(0, number, *cell)] = float(log_p[wanted].exp())
            found[(1, number, *cell)] = float(log_p.argmax() == wanted)
        _emit(job, "answer_probability", found[0, : number + 1])
        job.emit({}, {"accuracy": found[1, : number + 1].mean(0).astype(np.float32)})
        job.progress(number + 1, len(rows), "texts")
    job.emit({}, {"neutral_ce": _cross_entropy(job, model, ordinary, sites, doses)})
    job.note(passes=len(rows) * (1 + len(doses) * len(sites)))
    what = "largest change of a logit when all of the parts are multiplied by 1"
    job.check(
        "a factor of 1 changes nothing", largest_change_by_one(model, rows[0], sites), 0, what
    )


def _doses(factors: Sequence[float]) -> list[float]:
    try:
        doses = [float(factor) for factor in factors]
    except (TypeError, ValueError):
        doses = []
    if not doses or not np.isfinite(doses).all():
        raise InputError(f"factors is {factors!r}; expected finite numbers.")
    return doses


def _last_and_drawn(model: LensModel, seed: int) -> list[Site]:
    """What the sublayers of the last layer write, and those of another one as controls."""
    last = model.n_layers - 1
    layers = [last, *([int(np.random.default_rng(seed).integers(last))] if last else [])]
    return [
        Site(kind, layer)
        for layer in layers
        for kind in ("attn_out", "mlp_out")
        if kind in model.anatomy.blocks[layer].taps
    ]


def _declare(job: Job, model: LensModel, sites: Sequence[Site], doses: Sequence[float]) -> None:
    names = [".".join(str(x) for x in (s.kind, s.layer, s.head) if x is not None) for s in sites]
    labels: dict[str, Any] = {
        "layer": np.arange(model.n_layers, dtype=np.int32),
        "token": np.array(TOKENS),
        "factor": np.array(doses),
        "part": np.array(names),
    }
    sizes = {axis: len(values) for axis, values in labels.items()}
    job.declare(sizes, {axis: ((axis,), values) for axis, values in labels.items()})


def _steps(
    job: Job, model: LensModel, rows: Sequence[Tokens], given: Sequence[Any], head: Head
) -> list[int]:
    """Read the states of each text by the lens, and hand over what layers change; the answers."""
    points = model.n_layers + 1
    logits = np.zeros((len(rows), points, len(TOKENS)))
    probability, entropy = np.zeros_like(logits), np.zeros((len(rows), points))
    answers, worst, largest = [], 0.0, 0.0
    for number, (row, wanted) in enumerate(zip(rows, given, strict=True)):
        x, final = _states(job, model, row)
        best = final.topk(2).indices.tolist()
        answer = best[0] if wanted is None else model.token_id(wanted)
        both = [answer, best[1] if answer == best[0] else best[0]]
        answers.append(answer)
        x = head.accept(x)
        chosen = torch.tensor([both] * points, device=x.device)
        read = head.reduce(x, chosen, 1, job.tick)
        logits[number] = read.chosen.cpu()
        probability[number] = (read.chosen - read.log_norm[:, None]).exp().cpu()
        entropy[number] = read.entropy.cpu()
        worst = max(worst, float((read.chosen[-1].cpu() - final[both]).abs().max()))
        largest = max(largest, float(final[final.isfinite()].abs().max()))
        steps = np.diff(logits[: number + 1], axis=1)
        _emit(job, "logit_change", steps)
        _emit(job, "probability_change", np.diff(probability[: number + 1], axis=1))
        _emit(job, "entropy_change", np.diff(entropy[: number + 1], axis=1))
        job.emit({}, {"falls": (steps < 0).mean(0).astype(np.float32)})
    what = "largest difference of a logit read after the last layer from the model's own"
    job.check("the last state is the model's", worst, logit_tolerance(model.dtype) * largest, what)
    return answers


def _states(job: Job, model: LensModel, row: Tokens) -> tuple[Tensor, Tensor]:
    """What the head is given for each state at the end of a text, and the model's own logits."""
    points = [Site("resid_pre", 0), *(Site("resid_post", n) for n in range(model.n_layers))]
    states: list[Tensor] = []

    def see(_: Site, value: Tensor) -> None:
        job.tick()
        states.append(value[0, -1].clone())

    own = forward(model, row, points, see)
    assert own is not None  # the model has a head: the contract asked
    stacked = torch.stack([state.to(own.device) for state in states])
    return model.head_input(stacked), own[0, -1].float().cpu()


def _emit(job: Job, name: str, values: np.ndarray) -> None:
    """A mean over texts ``[text, ...]`` and its interval."""
    ends = zip(("", "_low", "_high"), mean_interval(values), strict=True)
    job.emit({}, {name + end: found.astype(np.float32) for end, found in ends})


def _ordinary(job: Job, model: LensModel, neutral: Any) -> Tokens | None:
    """The ordinary text; None where there is none, and the result says so."""
    try:
        if neutral is None and model.tokenizer is None:
            raise InputError("There is no tokenizer.")
        tokens = row_of(job.tokens(NEUTRAL if neutral is None else neutral), 0)
    except InputError as error:
        if neutral is not None:
            raise
        job.remark(f"The neutral sentences cannot be read: give neutral=. {error}")
        return None
    if tokens.ids.shape[1] < 2:
        raise InputError("neutral has one token, and none comes next: give a longer text.")
    return tokens


def _cross_entropy(
    job: Job, model: LensModel, tokens: Tokens | None, sites: Sequence[Site], doses: Sequence[float]
) -> np.ndarray:
    """Of an ordinary text, ``[factor, part]`` float32."""
    found = np.full((len(doses), len(sites)), np.nan, dtype=np.float32)
    if tokens is None:
        return found
    for cell, logits in turned_down(model, tokens, sites, doses, "all", job.tick):
        log_p = logits[:-1].float().log_softmax(-1)
        following = tokens.ids[0, 1:, None].to(log_p.device)
        found[cell] = -float(log_p.gather(1, following).mean())
    return found
