"""The work of ``inflection_layers``: entropies and gradients, text by text, and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from layerlens.analyses.contract.job import Job
from layerlens.analyses.sensitivity.picked_layers import SURE, in_words, picked, summits
from layerlens.analyses.sensitivity.text_gradients import TextGradients, norm, recorded_block
from layerlens.analyses.sweeps.clean_pass import tolerance
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.analyses.texts.text_pair import row_of
from layerlens.metrics.base import ModelShape
from layerlens.metrics.cka import Cka
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

WAYS = {"": "", "_chance": ", tokens shuffled"}
"""The texts, and the control: how names of their numbers end, and their words."""

CURVES = {
    "attention_entropy": ("nats", "entropy of the attention"),
    "gradient_by_state": ("1", "gradient by the layer's output"),
    "gradient_by_weights": ("1", "gradient by the layer's weights"),
}
"""Numbers of each layer in each text, with their unit and words."""


class InflectionRun:
    """The work of one call.

    Parameters
    ----------
    a
        Weight of the entropy in the saturation.
    ways
        Which of :data:`WAYS`.
    """

    def __init__(
        self, job: Job, model: LensModel, tokens: Tokens, skip: int, a: float, ways: Sequence[str]
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.skip, self.a = skip, a
        self.curves: dict[str, list[np.ndarray]] = {way: [] for way in ways}
        self.passes = 0
        self.replayed = 0.0
        self.off: list[float] = []

    def measure(self, compared: tuple[LensModel, int, int] | None, seed: int, verify: int) -> None:
        """Measure all texts, and compare the other model's states where one is given.

        Parameters
        ----------
        compared
            The other model, on how many components, and at how many tokens.
        """
        texts = len(self.tokens.ids)
        own = None if compared is None else self._sample(self.model, compared[2])
        for row in range(texts):
            text = row_of(self.tokens, row)
            self._add("", text, row, row < verify, own)
            if "_chance" in self.curves:
                self._add("_chance", _shuffled(text, (seed, row)), row, verified=False)
            self._show()
            self.job.progress(row + 1, texts, "texts")
        if compared is not None and own is not None:
            self._compare(own, compared[0], compared[1], compared[2])
        self._finish()

    def _add(
        self, way: str, text: Tokens, row: int, verified: bool, own: Cka | None = None
    ) -> None:
        """The curves of one text, ``[curve, layer]``."""
        entropies = self._entropies(text, row, own)
        found = TextGradients(self.model, text, self.skip, self.job.tick, self._weights)
        _, lasts = found.back(found.following)
        states, weights = np.full((2, self.model.n_layers), np.nan)
        after = lasts[0]
        for block in found.blocks(lasts):
            states[block.layer] = norm(after)
            weights[block.layer] = norm(*block.inside[0])
            after = block.states[0]
        self.passes += 5
        self.replayed = max(self.replayed, found.replayed)
        if verified:
            whole_way = found.whole_way(found.following)[0][0]
            self.off.append(norm(whole_way - after.to(whole_way)) / max(norm(whole_way), 1e-12))
            self.passes += 3
        self.curves[way].append(np.stack([entropies, states, weights]))

    def _entropies(self, text: Tokens, row: int, own: Cka | None) -> np.ndarray:
        """Mean over queries and heads at each layer; NaN where it has no patterns."""
        metrics = MetricSet.make(self.model, "attention_entropy", skip_first=self.skip)
        (entropy,) = metrics.metrics
        metrics.metrics += [] if own is None else [own]
        with torch.no_grad():
            run_metrics(self.model, [(text, [row])], metrics, tick=self.job.tick)
        heads = entropy.value(intervals=False)["attention_entropy"]
        known = np.isfinite(heads)
        with np.errstate(invalid="ignore"):
            found: np.ndarray = np.where(known, heads, 0).sum(1) / known.sum(1)
        return found

    def _weights(self, layer: int) -> AbstractContextManager[list[nn.Parameter]]:
        return recorded_block(self.model, layer)

    def _show(self) -> None:
        """Means of the texts so far."""
        for way, curves in self.curves.items():
            means = np.mean(curves, axis=0)
            self.job.emit({}, {f"{n}{way}": m for n, m in zip(CURVES, means, strict=True)})
            self.job.emit({}, {f"saturation{way}": saturation(means[None, :2], self.a)[0]})

    def _finish(self) -> None:
        """Hand over intervals, name the inflections, and say what was verified."""
        sure: dict[str, list[int]] = {}
        for way, curves in self.curves.items():
            each = np.stack(curves)
            _, low, high = mean_interval(each)
            for i, name in enumerate(CURVES):
                self.job.emit({}, {f"{name}{way}_low": low[i], f"{name}{way}_high": high[i]})
            known = np.isfinite(each[0, 0])
            share = np.where(known, 0.0, np.nan)
            pair = each[:, :2, known]
            share[known] = picked(lambda means: summits(saturation(means, self.a)), pair)
            self.job.emit({}, {f"inflection{way}": share})
            sure[way] = np.flatnonzero(share >= SURE).tolist()
        self.job.remark(_sentence(sure))
        self.job.note(
            passes=self.passes / len(self.tokens.ids),
            method="one pass with patterns; one whose gradient goes back block by block",
        )
        limit = tolerance(self.model)
        what = "states after each block run again against those of the pass, of the largest"
        self.job.check("block alone equals the pass", self.replayed, limit, what)
        if self.off:
            what = "gradient at the embedding against one way back of the whole model, relative"
            self.job.check("naive agreement", max(self.off), limit, what)

    def _sample(self, model: LensModel, tokens: int) -> Cka:
        return Cka(ModelShape.of(model), sample=tokens)

    def _compare(self, own: Cka, other: LensModel, components: int, tokens: int) -> None:
        """CKA after each layer of the states of the same tokens in both models."""
        foreign = self._sample(other, tokens)
        metrics = MetricSet(foreign.shape, [foreign], self.skip)
        texts = [(row_of(self.tokens, row), [row]) for row in range(len(self.tokens.ids))]
        with other.running(), torch.no_grad():
            run_metrics(other, texts, metrics, tick=self.job.tick)
        self.passes += len(texts)
        states, others = (torch.from_numpy(one.arrays["states"]) for one in (own, foreign))
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(others)))
        itself = 0.0
        for layer in range(self.model.n_layers):
            self.job.tick()
            rows = own.rows(states[:, layer + 1]), own.rows(others[:, layer + 1])
            basis, kept = _basis(rows, components)
            mine, theirs = (one @ basis for one in rows)
            found = {
                "cka_change": 1 - own.likeness(mine, theirs),
                "cka_change_chance": 1 - own.likeness(mine, theirs[order]),
                "kept_variance": kept,
            }
            self.job.emit({"layer": layer}, {n: np.array(value) for n, value in found.items()})
            itself = max(itself, abs(1 - own.likeness(mine, mine)))
        self.job.note(other=other.name, compared=len(states))
        self.job.check(
            "itself", itself, 1e-6, "1 less the CKA of this model's states to themselves"
        )


def saturation(means: np.ndarray, a: float) -> np.ndarray:
    """SKI of mean curves: ``[draw, 2, layer]``, entropy and gradient, to ``[draw, layer]``.

    A curve that is the same at all layers says nothing of any and counts as 0; layers whose
    entropy is NaN are NaN.

    Examples
    --------
    >>> saturation(np.array([[[2.0, 1.0, 0.0], [5.0, 5.0, 7.0]]]), 0.5)[0].tolist()
    [0.5, 0.75, 0.5]
    """
    known = np.isfinite(means).all(1, keepdims=True)
    inside = np.where(known, means, np.nan)
    least, most = (end(inside, axis=-1, keepdims=True) for end in (np.nanmin, np.nanmax))
    with np.errstate(invalid="ignore"):
        scaled = np.where(most > least, (most - inside) / (most - least), 0.0 * inside)
    found: np.ndarray = a * scaled[:, 0] + (1 - a) * scaled[:, 1]
    return found


def _basis(rows: Sequence[Tensor], components: int) -> tuple[Tensor, float]:
    """Principal directions ``[d, components]`` of centred states of both, and what they hold."""
    both = torch.cat(list(rows))
    values, vectors = torch.linalg.eigh(both.mT @ both)
    values = values.clamp(min=0)
    kept = values[-components:].sum() / values.sum()
    return vectors[:, -components:], float(kept)


def _shuffled(text: Tokens, seed: Sequence[int]) -> Tokens:
    """The tokens of a text in another order; the first one, which many models need, stays."""
    ids = text.ids.clone()
    order = np.random.default_rng(seed).permutation(ids.shape[1] - 1) + 1
    ids[0, 1:] = ids[0, torch.from_numpy(order)]
    return replace(text, ids=ids)


def _sentence(sure: dict[str, list[int]]) -> str:
    """Which layers are inflections, and which are with shuffled tokens, too."""
    if not sure[""]:
        found = "No layer is surely an inflection in these texts"
    else:
        verb = "is an inflection" if len(sure[""]) == 1 else "are inflections"
        found = f"{in_words(sure['']).capitalize()} {verb} in these texts"
    if "_chance" not in sure:
        return f"{found}."
    other = in_words(sure["_chance"]) if sure["_chance"] else "none"
    return f"{found}; with their tokens shuffled: {other}."
