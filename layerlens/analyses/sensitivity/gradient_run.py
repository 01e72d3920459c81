"""The work of ``layer_gradients``: texts side by side on their way back, measured at each block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from layerlens.analyses.contract.job import Job
from layerlens.analyses.sensitivity.factors import Factors, Shared, Spectrum
from layerlens.analyses.sensitivity.gradient_cosines import (
    COUPLES,
    Norms,
    with_layer_above,
    within_layer,
)
from layerlens.analyses.sensitivity.projection_gradients import (
    Gradients,
    ProjectionGradients,
    between,
    distance,
)
from layerlens.analyses.sensitivity.responses import Asked
from layerlens.analyses.sensitivity.text_gradients import TextGradients, recorded_bytes
from layerlens.analyses.sweeps.clean_pass import TokenMeans, tolerance
from layerlens.metrics.one_thread import one_thread

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

FOLLOWING = ("text", "shuffled")
"""Which next tokens the loss asks for."""

OF_PARTS = ("effective_rank", "nuclear", "frobenius", "relative_gradient", "text_cosine")
OF_PROJECTIONS = (*OF_PARTS, "rank_share")


ROOM = 256 << 20
"""Bytes of graphs up to which the passes of texts that go side by side record their blocks."""


def fits(model: LensModel, longest: int, together: int) -> bool:
    """Whether there is room for the graphs of all blocks."""
    return together * model.n_layers * recorded_bytes(model, longest) <= ROOM


class GradientRun:
    """The work of one call.

    Parameters
    ----------
    following
        One or both of :data:`FOLLOWING`.

    Attributes
    ----------
    pairs
        Whether texts are gone through side by side, so that there are cosines.
    """

    def __init__(
        self, job: Job, model: LensModel, following: Sequence[str], seed: int, verify: int
    ) -> None:
        self.job, self.model, self.following = job, model, following
        self.seed, self.verify, self.pairs = seed, verify, False
        self.parts = ProjectionGradients(model)
        sizes = model.n_layers, len(self.parts.names), len(following)
        self.means = {name: TokenMeans(*sizes) for name in OF_PROJECTIONS}
        for part in self.parts.parts:
            for way in self.ways:
                for name in OF_PARTS:
                    self.means[f"{part}_{name}{way}"] = TokenMeans(model.n_layers)
        self.means["layer_cosine"] = TokenMeans(*sizes)
        for couple in COUPLES:
            for way in self.ways:
                self.means[f"cosine_{couple}{way}"] = TokenMeans(model.n_layers)
        self._above: dict[tuple[int, int], tuple[Gradients, Norms]] = {}
        self.weights = [self.parts.norms(layer) for layer in range(model.n_layers)]
        self.passes = 0
        self.plain = self.parts.plain
        self.again = False
        self.replayed = 0.0
        self.off: list[float] = []

    @property
    def ways(self) -> tuple[str, ...]:
        """How names end, for each of ``following``."""
        return ("", "_chance")[: len(self.following)]

    @property
    def names(self) -> list[str]:
        """What will be there."""
        found = [name for name in self.means if self.pairs or "text_cosine" not in name]
        whole = (*OF_PROJECTIONS, "layer_cosine")
        ends = [f"{name}{end}" for name in found for end in ("_low", "_high")]
        return [*found, *(end for end in ends if not end.startswith(whole))]

    def group(self, texts: Sequence[Asked], start: int) -> None:
        """Carry the gradients of some texts back side by side.

        Parameters
        ----------
        start
            Number of the first among all texts.
        """
        longest = max(text.text.ids.shape[1] for text in texts)
        record = self.plain and fits(self.model, longest, len(texts))
        self.again |= not record
        every = [_Text(self, text, start + i, record) for i, text in enumerate(texts)]
        kept: dict[int, list[Gradients]] = {}
        for layer in range(self.model.n_layers - 1, -1, -1):
            gradients = [text.next() for text in every]
            with one_thread():
                self._measure(layer, start, gradients)
            if layer in (0, self.model.n_layers - 1):
                kept[layer] = [own[0] for own in gradients]
            self._show(layer)
        self._above.clear()
        self.passes += (2 - record + len(self.following)) * len(texts)
        for i, text in enumerate(every):
            self.replayed = max(self.replayed, text.found.replayed)
            if start + i < self.verify:
                self._verify(text, {layer: own[i] for layer, own in kept.items()})

    def _measure(self, layer: int, start: int, gradients: Sequence[Sequence[Gradients]]) -> None:
        """Count a block's numbers of some texts, each with a gradient for each loss."""
        pairs = list(combinations(range(len(gradients)), 2))
        for kind, way in enumerate(self.ways):
            own = [found[kind] for found in gradients]
            shared: Shared = {}
            each = {
                name: _One(
                    [list(found[name].values()) for found in own],
                    weight,
                    {(i, j): between(own[i][name], own[j][name], shared) for i, j in pairs},
                )
                for name, weight in self.weights[layer].items()
            }
            norms: list[dict[str, float]] = [{} for _ in own]
            for name, one in each.items():
                place = self.parts.names.index(name)
                spectra = self._add(OF_PROJECTIONS, "{}", (layer, place, kind), start, one)
                for i, spectrum in enumerate(spectra):
                    norms[i][name] = spectrum.norm
            for i, (found, sizes) in enumerate(zip(own, norms, strict=True)):
                self._compare((layer, kind), start + i, found, sizes)
            for part in self.parts.parts:
                if inside := self.parts.inside(layer, part):
                    joined = _One.joined([each[name] for name in inside])
                    self._add(OF_PARTS, f"{part}_{{}}{way}", (layer,), start, joined)

    def _compare(self, cell: tuple[int, int], text: int, own: Gradients, norms: Norms) -> None:
        """Count the cosines of a text's gradients with those of the layer above, and inside."""
        layer, kind = cell
        if before := self._above.get((text, kind)):
            above, norms_above = before
            for name, cosine in with_layer_above(own, above, norms, norms_above).items():
                place = self.parts.names.index(name)
                self.means["layer_cosine"].add_number((layer, place, kind), cosine, text)
        self._above[text, kind] = own, norms
        for couple, cosine in within_layer(own, norms).items():
            mean = self.means[f"cosine_{couple}{self.ways[kind]}"]
            mean.add_number((layer,), cosine, text)

    def _add(
        self, names: Sequence[str], named: str, cell: tuple[int, ...], start: int, one: _One
    ) -> list[Spectrum]:
        """Count the numbers of some matrices in some texts."""
        spectra = [Spectrum.of(parts) for parts in one.texts]
        for i, spectrum in enumerate(spectra):
            values = {
                "effective_rank": spectrum.rank,
                "nuclear": spectrum.nuclear,
                "frobenius": spectrum.norm,
                "relative_gradient": spectrum.norm / one.weight if one.weight else float("nan"),
                "rank_share": spectrum.share,
            }
            for name in names:
                if name in values:
                    self.means[named.format(name)].add_number(cell, values[name], start + i)
        for (i, j), product in one.products.items():
            size = spectra[i].norm * spectra[j].norm
            cosine = product / size if size else float("nan")
            self.means[named.format("text_cosine")].add_number(cell, cosine, start + i)
        return spectra

    def _show(self, layer: int) -> None:
        shown = {name for name in self.names if name in self.means}
        self.job.emit({"layer": layer}, {name: self.means[name].mean(layer) for name in shown})

    def _verify(self, text: _Text, kept: Mapping[int, Gradients]) -> None:
        """The gradients of some blocks by one pass of the whole model and its way back."""
        wanted = [(layer, matrix) for layer in kept for matrix in self.parts.own(layer)]
        with self.model.present(kept):
            weights = [matrix.parameter for _, matrix in wanted]
            _, *slopes = text.found.whole_way(text.wanted[0], weights)
        self.passes += 3
        for (layer, matrix), slope in zip(wanted, slopes, strict=True):
            for part in self.parts.of(layer, matrix):
                self.off.append(distance(part, matrix, kept[layer][part.name], slope))

    def finish(self, texts: int) -> None:
        """Hand over the intervals, and say how it was done and what was verified."""
        for name in self.names:
            if name not in self.means and name.endswith("_low"):
                stem = name.removesuffix("_low")
                low, high = self.means[stem].interval()
                self.job.emit({}, {name: low, f"{stem}_high": high})
        self.job.note(
            passes=self.passes / texts,
            method="one pass; the gradient goes back through each block"
            + ", run again for itself" * self.again,
        )
        limit = tolerance(self.model)
        if self.again:
            what = "states after each block run again against those of the pass, of the largest"
            self.job.check("block alone equals the pass", self.replayed, limit, what)
        if self.off:
            what = "gradients of the first and last block against one way back, of their norm"
            self.job.check("naive agreement", max(self.off), limit, what)


@dataclass(frozen=True)
class _One:
    """Matrices of a block that are measured as one.

    Parameters
    ----------
    texts
        Of each text, their gradients.
    weight
        Norm of the weights.
    products
        Inner products of the gradients of two texts.
    """

    texts: Sequence[list[Factors]]
    weight: float
    products: Mapping[tuple[int, int], float]

    @classmethod
    def joined(cls, several: Sequence[_One]) -> _One:
        """All of several, as blocks of one."""
        texts = [list(chain(*parts)) for parts in zip(*(o.texts for o in several), strict=True)]
        weight = sum(one.weight**2 for one in several) ** 0.5
        products = {
            pair: sum(one.products[pair] for one in several) for pair in several[0].products
        }
        return cls(texts, weight, products)


class _Text:
    """One text on its way back, for its losses."""

    def __init__(self, run: GradientRun, text: Asked, number: int, record: bool) -> None:
        self._watch = run.parts.watch()
        self.found = TextGradients(
            run.model, text.text, text.skip, run.job.tick, self._watch.inside, record=record
        )
        following = self.found.following
        order = np.random.default_rng((run.seed, number)).permutation(len(following))
        shuffled = following[torch.from_numpy(order)]
        self.wanted = [following, shuffled][: len(run.following)]
        _, lasts = self.found.back(*self.wanted)
        self._blocks = self.found.blocks(lasts)

    def next(self) -> list[Gradients]:
        """The gradients of the next block down, for each loss."""
        block = next(self._blocks)
        return [self._watch.gradients(block.layer, slopes) for slopes in block.inside]
