"""How much the output turns when a block is left out: one after the other, or for good."""

from __future__ import annotations

import json
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.answers.prediction_change import Distance, Outputs, kl
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import When, given
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.depth.left_out_cells import open_influence
from layerlens.analyses.sweeps.clean_pass import (
    Pass,
    TokenMeans,
    cosine,
    passes,
    require_tokens,
    tolerance,
)
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.feed import ANY_KIND

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("layer", "round?")
NEEDS: tuple[str, ...] = ("macro_influence", "kl", "loss_change")
"""What says how much a block is needed."""

Score = Callable[[Tensor], Tensor]
"""From logits ``[n, vocabulary]`` float32 to ``[n]``, larger for better."""


_CURVES = {
    "macro_influence": ("1", "Macro Influence (turn of the last state)"),
    "kl": ("nats", "KL divergence of the prediction without the block"),
    "loss_change": ("nats", "change of the loss without the block"),
    "score_drop": ("1", "what the own score loses without the block"),
}
VARIABLES = {
    name: variable
    for curve, (units, words) in _CURVES.items()
    for name, variable in with_interval(curve, Variable(_CELL, "float64", units, words)).items()
} | {
    "loss": Variable((), "float64", "nats", "loss of the whole model"),
    "removed": Variable(("round?",), "int32", "layer", "block left out after this round"),
    "loss_removed": Variable(("round?",), "float64", "nats", "loss without the blocks so far"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    rounds: int,
    by: str | Score,
    protect: Any,
    output: bool,
    skip_first: bool | int,
    batch_size: int | None,
    verify: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    layers = model.n_layers
    texts = sum(tokens.lengths)
    batches = split(tokens, batch_size)
    widest = max(part.ids.numel() for part, _ in batches)
    runs = rounds * layers
    states = (layers + 3) * widest * model.d_model * model.dtype.itemsize
    return Work(rounds * (2 + layers / 2) + verify, runs * texts * int(output), states)


@analysis(
    name="macro_influence",
    question="How much does the output turn when a block is left out?",
    source="Pei et al. (2024), FuseGPT: Learnable Layers Fusion of Generative Pre-trained "
    "Transformers, arXiv 2411.14507; change of the loss: Sun et al. (2025), The Curse of "
    "Depth in Large Language Models, arXiv 2502.05795",
    cost="1 pass, and half a pass for each block that is left out, in every round",
    view="panels",
    lead="The higher a layer stands, the more the output turns when it is left out; what lies "
    "near 0 could be spared.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    pooled=True,
    effects={
        "by": given("output"),
        "protect": When("rounds", "with rounds above 1", lambda rounds: rounds > 1),
    },
    opens=open_influence,
)
def macro_influence(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    rounds: int = 1,
    by: str | Score = "macro_influence",
    protect: Any = (),
    output: bool = True,
    skip_first: bool | int = True,
    batch_size: int | None = None,
    verify: int = 1,
) -> None:
    """Leave out each block and see how far the state after the last one turns.

    ``macro_influence`` of a block is one minus the mean over tokens of the cosine of the states
    after the last block, before the final norm, with and without the block: 0 where it could be
    dropped, at most 2. Block Influence (a metric of ``ll.layer_metrics``) compares the states
    around the block itself; of the last block the two are the same.

    Parameters
    ----------
    rounds
        1: each block alone (one shot). More: the block that is needed least is left out for good,
        and all others are measured again in what remains, as often as this (iterative pruning).
    by
        What says how much a block is needed: ``macro_influence``, ``kl``, ``loss_change``, or a
        score of your own, a function from logits ``[n, vocabulary]`` float32 to ``[n]``, larger
        for better: then the block goes whose absence costs least of its mean
        (``score_drop``). Of equal ones the first goes.
    protect
        Layers that are never left out for good, such as ``(0, -1)``.
    output
        Also run the head, for ``kl``, ``loss_change`` and ``score_drop``.
    skip_first
        Leave out the first token of each text (or so many) from the means. The block is left
        out at every token.
    batch_size
    verify
        How many blocks of the first batch are left out again in a pass of the whole model.

    Notes
    -----
    With more than one round there is an axis ``round``; blocks that are gone are NaN, and in
    every round the comparison is with the run before it. ``kl`` is from that run's prediction.
    Attribute ``order``: the blocks in the order in which they were left out (for one round, from
    the least influence to the largest). Intervals are over texts.

    Raises
    ------
    InputError
        An option does not fit, or no token counts.
    ModelError
        ``output`` was asked of a model without a head.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.macro_influence(model, [5, 9, 4, 5, 9])
    >>> bool(found.data.macro_influence.min() >= 0)
    True
    """
    if not callable(by) and by not in NEEDS:
        raise nearest(str(by), list(NEEDS), "by of macro_influence:")
    kept = _protected(model, protect)
    most = max(1, model.n_layers - max(1, len(kept)))
    if isinstance(rounds, bool) or not 1 <= rounds <= most:
        raise InputError(f"rounds is {rounds}; expected 1 to {most}, so that a block remains.")
    require_tokens(tokens, skip_first)
    if by == "loss_change" and model.bidirectional:
        raise InputError(
            f"{model.name} reads in both directions, so that it has no loss of a next token: use "
            "by='kl'."
        )
    how = (skip_first, batch_size)
    _Influence(job, model, tokens, rounds, output, by, kept, how).run(verify)


def _protected(model: LensModel, protect: Any) -> frozenset[int]:
    none = isinstance(protect, Sized) and not len(protect)
    return frozenset() if none else frozenset(model.layers(protect))


class _Influence:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        rounds: int,
        output: bool,
        by: str | Score,
        protected: frozenset[int],
        how: tuple[bool | int, int | None],
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.rounds, self.output = rounds, output
        self.by, self.protected = by, protected
        self.how = how
        self.batches = len(split(tokens, how[1]))
        self.left = list(range(model.n_layers))
        self.removed: list[int] = []
        self.blocks = 0
        self.done = 0
        self.error = self.turned = 0.0

    def run(self, verify: int) -> None:
        """Every round, and what is verified of it."""
        self._declare()
        for number in range(self.rounds):
            means = self._round(number, verify if not number else 0)
            order = sorted(self.left, key=lambda layer: (means[layer], layer))
            self._remove(number, next(layer for layer in order if layer not in self.protected))
        if self.rounds > 1:
            order = self.removed
            self._measure_loss(self.rounds - 1)
        self.job.note(
            passes=self.blocks / self.model.n_layers,
            method="restart from the state before the block that is left out",
            order=json.dumps(order),
        )
        what = "influence of the last block against its Block Influence"
        self.job.check("last block", self.turned, 1e-9, what)
        if verify:
            what = "turn and KL without a block against a pass of the whole model with hooks"
            self.job.check("naive agreement", self.error, tolerance(self.model), what)

    def _declare(self) -> None:
        sizes = {"layer": self.model.n_layers}
        if self.rounds > 1:
            sizes["round"] = self.rounds
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            name: ((name,), np.arange(size, dtype=np.int32)) for name, size in sizes.items()
        }
        needs_head = ("kl", "loss")
        wanted = [name for name in VARIABLES if self.output or not name.startswith(needs_head)]
        if not self.scored:
            wanted = [name for name in wanted if not name.startswith("score_drop")]
        if self.rounds == 1:
            wanted = [name for name in wanted if "removed" not in name]
        self.job.declare(sizes, coords, only=wanted)

    def _round(self, number: int, verify: int) -> np.ndarray:
        """Leave out each block that is left once; the influences [layer]."""
        layers = self.model.n_layers
        names = NEEDS if self.output else NEEDS[:1]
        if self.scored:
            names = (*names, "score_drop")
        means = {name: TokenMeans(layers) for name in names}
        loss = TokenMeans(1)
        total = self.rounds * self.batches * layers
        for one in passes(self.model, self.tokens, *self.how, self.job.tick):
            prefix = self._prefix(one)
            clean = one.taken(prefix[-1])
            outputs = Outputs(self.model, one.batch, clean) if self.output else None
            if outputs is not None:
                loss.add((0,), outputs.loss, one.batch)
            for place, layer in enumerate(self.left):
                state = one.run(prefix[place], self.left[place + 1 :])
                self.blocks += len(self.left) - place - 1
                found = self._compare(one, clean, outputs, state)
                for name, values in found.items():
                    means[name].add((layer,), values, one.batch)
                self._emit(number, layer, means)
                self.done += 1
                self.job.progress(self.done, total, f"without layer {layer}")
            self._last_block(one, prefix, found["macro_influence"])
            if verify and one.batch.numbers[0] == 0:
                self._verify(one, outputs, clean, verify)
        self._finish(number, means)
        if self.output and number == 0:
            self.job.emit({}, {"loss": loss.mean()[0]})
        if self.output and number:
            self.job.emit({"round": number - 1}, {"loss_removed": loss.mean()[0]})
        return means["score_drop" if callable(self.by) else self.by].mean()

    @property
    def scored(self) -> bool:
        """Whether a score of one's own is measured."""
        return callable(self.by)

    def _prefix(self, one: Pass) -> list[Tensor]:
        """States before each of the blocks that are left, and after the last."""
        self.blocks += self.model.n_layers
        if not self.removed:
            return one.states
        first = min(self.removed)
        states = one.states[: first + 1]
        later = [layer for layer in self.left if layer > first]
        for layer in later:
            states.append(one.run(states[-1], [layer]))
        self.blocks += len(later)
        return states

    def _compare(
        self, one: Pass, clean: Tensor, outputs: Outputs | None, state: Tensor
    ) -> dict[str, Tensor]:
        final = one.taken(state)
        found = {"macro_influence": 1 - cosine(clean, final)}
        if outputs is not None:
            self.job.tick()
            found["kl"], loss = outputs.compare(final, kl)
            found["loss_change"] = loss - outputs.loss
            if callable(self.by):
                found["score_drop"], _ = outputs.compare(final, _drop(self.by))
        return found

    def _emit(self, number: int, layer: int, means: dict[str, TokenMeans]) -> None:
        where = {"layer": layer, **({"round": number} if self.rounds > 1 else {})}
        self.job.emit(where, {name: mean.mean()[layer] for name, mean in means.items()})

    def _finish(self, number: int, means: dict[str, TokenMeans]) -> None:
        """Hand over a whole round, with intervals; blocks that are gone stay NaN."""
        arrays = {}
        for name, mean in means.items():
            arrays[name] = mean.mean()
            arrays[f"{name}_low"], arrays[f"{name}_high"] = mean.interval()
        self.job.emit({"round": number} if self.rounds > 1 else {}, arrays)

    def _remove(self, number: int, layer: int) -> None:
        if self.rounds > 1:
            self.removed.append(layer)
            self.left.remove(layer)
            self.job.emit({"round": number}, {"removed": np.array(layer)})

    def _measure_loss(self, number: int) -> None:
        """The loss of what is left after the last round."""
        if not self.output:
            return
        loss = TokenMeans(1)
        for one in passes(self.model, self.tokens, *self.how, self.job.tick):
            final = one.taken(self._prefix(one)[-1])
            loss.add((0,), Outputs(self.model, one.batch, final).loss, one.batch)
        self.job.emit({"round": number}, {"loss_removed": loss.mean()[0]})

    def _last_block(self, one: Pass, prefix: list[Tensor], found: Tensor) -> None:
        own = 1 - cosine(one.taken(prefix[-2]), one.taken(prefix[-1]))
        self.turned = max(self.turned, float((own - found).nan_to_num().abs().max()))

    def _verify(self, one: Pass, outputs: Outputs | None, clean: Tensor, verify: int) -> None:
        """Leave out blocks spread over the depth by hooks on the whole model."""
        chosen = np.linspace(0, self.model.n_layers - 1, min(verify, self.model.n_layers) + 2)
        for layer in sorted({round(float(place)) for place in chosen[1:-1]}):
            mine = self._compare(
                one,
                clean,
                outputs,
                one.run(one.states[layer], range(layer + 1, self.model.n_layers)),
            )
            plain = self._compare(one, clean, outputs, one.without([layer]))
            self.blocks += 2 * self.model.n_layers - layer
            for name in mine.keys() & {"macro_influence", "kl"}:
                off = float((mine[name] - plain[name]).nan_to_num().abs().max())
                self.error = max(self.error, off)


def _drop(score: Score) -> Distance:
    """What a score loses from clean logits to others."""

    def drop(clean: Tensor, other: Tensor) -> Tensor:
        before, after = (score(logits) for logits in (clean, other))
        for found in (before, after):
            if not isinstance(found, Tensor) or found.shape != clean.shape[:1]:
                raise InputError(
                    f"The score in by was given logits {tuple(clean.shape)}; expected a tensor "
                    f"[{len(clean)}] of it, one number a row."
                )
        return (before - after).double()

    return drop
