"""The standard test of attention heads: random tokens that repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.errors import InputError
from layerlens.metrics.attention import DETECTOR, OverQueries
from layerlens.metrics.base import Arrays, ModelShape
from layerlens.metrics.batch import MOST_TOKENS, Batch, split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

LENGTH = 50
"""Tokens before they repeat, as in the published tests of heads."""

_CELL = ("layer", "head")
_SCORES = {
    "induction": "attention to the token after the same one, a repeat before",
    "duplicate_token": "attention to the same token, a repeat before",
    "previous_token": "attention to the token before",
}
VARIABLES = {
    name: variable
    for role, words in _SCORES.items()
    for name, variable in with_interval(
        role, Variable(_CELL, "float64", "1", words, source=DETECTOR), "sequences"
    ).items()
}


class Offset(OverQueries):
    """Mean attention to the key that is ``offset`` before the query, from ``first`` on."""

    name = "offset"
    question = "How much does a head look at a fixed distance?"
    formula = "mean over t >= first of a_t,t-offset"
    units = "1"
    source = DETECTOR

    def __init__(self, shape: ModelShape, *, offset: int, first: int) -> None:
        super().__init__(shape, offset=offset, first=first)

    def measure(self, pattern: Tensor, batch: Batch, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Sum over the queries of each sequence."""
        offset, first = self.options["offset"], self.options["first"]
        there = pattern.diagonal(-offset, -2, -1)[..., first - offset :]
        sums = there.sum(-1, dtype=torch.float64)
        return sums, torch.full_like(sums, there.shape[-1])


def usual_length(model: LensModel) -> int:
    """How many tokens repeat where nothing was asked for: inside what the model was trained on."""
    trained = model.trained_range
    if trained is None:
        return LENGTH
    return min(
        LENGTH,
        (trained.repeats or (LENGTH, LENGTH))[1],
        (trained.longest - len(_front(model))) // 2,
    )


def _front(model: LensModel) -> list[int]:
    """What stands before the tokens that repeat."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    return [] if bos is None else [int(bos)]


def repeated_tokens(model: LensModel, length: int, sequences: int, seed: int) -> list[list[int]]:
    """Sequences of ``length`` random tokens, each twice, after the BOS token if there is one.

    Within a sequence all tokens differ, and none is special; different seeds and sequences are
    independent.

    Raises
    ------
    InputError
        When the vocabulary or the context is too small.
    """
    tokenizer = model.vocabulary.tokenizer
    special = model.vocabulary.special
    named = len(tokenizer) if tokenizer is not None else model.d_vocab_in
    ids = torch.tensor([i for i in range(min(model.d_vocab_in, named)) if i not in special])
    if not 2 <= length <= len(ids):
        raise InputError(
            f"length is {length}; expected 2 to {len(ids)}, the number of tokens that are not "
            "special."
        )
    if sequences < 1:
        raise InputError(f"sequences is {sequences}; expected a positive number.")
    front = _front(model)
    fed = len(front) + 2 * length
    if model.max_positions is not None and fed > model.max_positions:
        raise InputError(
            f"length is {length}, so {fed} tokens are fed, but {model.name} takes "
            f"{model.max_positions}: choose a smaller one."
        )
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(sequences):
        half = ids[torch.randperm(len(ids), generator=generator)[:length]].tolist()
        rows.append([*front, *half, *half])
    return rows


def count_work(model: LensModel, *, length: int | None, sequences: int, seed: int) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    length = usual_length(model) if length is None else whole(length, "length")
    rows = repeated_tokens(model, length, sequences, seed)
    fed = len(rows[0])
    together = min(sequences, max(1, MOST_TOKENS // fed))
    patterns = 4 * together * fed * fed * model.n_heads
    return Work(1, sequences, patterns, tokens=sequences * fed)


@analysis(
    name="head_scores",
    question="Which heads are induction, duplicate-token and previous-token heads?",
    source="Olsson et al. (2022), In-context Learning and Induction Heads, arXiv 2209.11895; "
    + DETECTOR,
    cost="1 pass over random tokens",
    view="grid",
    lead="A cell is one head: near 1 it does almost nothing but look where the pattern says.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
)
def head_scores(
    job: Job,
    model: LensModel,
    *,
    length: int | None = None,
    sequences: int = 4,
    seed: int = 0,
) -> None:
    """Feed random tokens that repeat and see which heads look where.

    A sequence is the BOS token (where the tokenizer has one), ``length`` random tokens that all
    differ, and the same once more. A perfect induction head gives all of its attention at the
    repeat to what followed the first time, ``length - 1`` before; a duplicate-token head to the
    same token, ``length`` before; a previous-token head always to the token before. No text is
    needed: what a head does on real ones is what the metrics ``induction``, ``duplicate_token``
    and ``previous_token`` of ``ll.layer_metrics`` say.

    Parameters
    ----------
    length
        Tokens before they repeat; None for 50, or for as many as the model was trained on where its
        configuration says so.
    sequences
        How many are fed; intervals are over them.
    seed
        Of the random tokens.

    Notes
    -----
    Variables over ``layer`` and ``head`` (query heads), from 0 to 1; NaN where a layer has no
    attention or fewer heads. Attribute ``fed`` holds the number of tokens of a sequence.

    Raises
    ------
    InputError
        ``length`` does not fit the vocabulary or the context.
    SiteError
        No layer has attention that could be watched.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.head_scores(model)
    >>> found.data.induction.max().item() > 0.5
    True
    """
    length = usual_length(model) if length is None else whole(length, "length")
    tokens = job.tokens(repeated_tokens(model, length, sequences, seed))
    for note in tokens.notes:
        job.remark(note)
    fed = tokens.ids.shape[1]
    shape = ModelShape.of(model)
    starts = {"induction": length - 1, "duplicate_token": length, "previous_token": 1}
    made = {
        name: Offset(shape, offset=offset, first=1 if offset == 1 else fed - length)
        for name, offset in starts.items()
    }
    job.declare(
        {axis: shape.sizes[axis] for axis in _CELL}, {axis: shape.coords[axis] for axis in _CELL}
    )
    batches = split(tokens)
    steps = iter(range(1, len(batches) * model.n_layers + 1))

    def show(number: int) -> None:
        values = {name: metric.value(False)["offset"] for name, metric in made.items()}
        job.emit({"layer": number}, {name: value[number] for name, value in values.items()})
        job.progress(next(steps), len(batches) * model.n_layers, f"layer {number}")

    passes = run_metrics(
        model,
        batches,
        MetricSet(shape, made.values(), 0),
        tick=job.tick,
        on_layer=lambda layer: show(layer.number),
    )
    found: Arrays = {}
    for name, metric in made.items():
        found |= {name + key.removeprefix("offset"): a for key, a in metric.value().items()}
    job.emit({}, found)
    job.note(passes=passes, fed=fed)
    total = found["induction"] + found["duplicate_token"]
    over = float(np.nanmax(total, initial=0) - 1)
    job.check("shares", max(over, 0), 1e-5, "attention to two keys of one query beyond 1")
