"""The work of :mod:`layerlens.analyses.features.facets.facets`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.features.facets.contexts import Contexts, written
from layerlens.analyses.features.facets.grouping import Vectors
from layerlens.analyses.neurons.top_texts_cell import activations
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.where import row_shapes

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

TOKENS = 5
"""Tokens of a facet that are named, the most frequent first."""
CLOUDS = 19
"""Clouds without groups that facets have to be clearer than, each: by chance once in twenty."""


class Told:
    """What is known of the facets of one neuron.

    Parameters
    ----------
    place
        Its layer and number.
    drawn
        How many other neurons, and the seed of all that is drawn.
    asked
        Above which share of the largest activation, the largest number of facets, and how many
        other starts.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        place: tuple[int, int],
        drawn: tuple[int, int],
        asked: tuple[float, int, int],
    ) -> None:
        self.job, self.model = job, model
        self.layer, self.number = place
        self.draws, self.seed = drawn
        self.above, self.most, self.seeds = asked

    def watch(self, contexts: int, side: str, skipped: int) -> None:
        """Draw other neurons of the layer to be watched beside it."""
        site = Site("mlp_post", self.layer)
        others = np.delete(np.arange(row_shapes(self.model, [site])[site][-1]), self.number)
        chosen = np.random.default_rng(self.seed).permutation(others)[: self.draws]
        neurons = [self.number, *chosen.tolist()]
        self.contexts = Contexts(
            self.model, self.layer, neurons, most=contexts, side=side, skipped=skipped,
            seed=self.seed,
        )  # fmt: skip
        self.job.note(layer=self.layer, number=self.number, other_neurons=chosen.tolist())

    def read(self, tokens: Tokens, rows: Sequence[Row], total: int | None) -> None:
        """Take in a pass over some rows."""
        self.contexts.see(tokens, rows, self.job.tick)
        self.job.progress(self.contexts.rows, total or self.contexts.rows, "texts")

    def choose(self, single: float) -> None:
        """Group the neuron's places; one group where none are clear."""
        if not self.contexts.counted:
            raise InputError("No token counts: special ones and the first of each text do not.")
        self.own = self.contexts.best[0].above(self.above)
        if not self.own:
            raise InputError(
                f"Neuron {self.number} of layer {self.layer} is never active on that side in "
                "these texts: give others, or another side."
            )
        self.vectors = Vectors.of(self.own)
        self.clear = np.full(self.most - 1, np.nan)
        self.labels = np.zeros(len(self.own), dtype=int)
        best = single
        for number, labels, mean in self.vectors.tried(self.most, self.seed, self.job.tick):
            self.clear[number - 2] = mean
            if mean >= best:
                best, self.labels = mean, labels
        if not self.vectors.numbers(self.most):
            self.job.remark(f"{len(self.own)} places are too few, or too alike, to be grouped.")
        self.limit = np.nan
        if self.count > 1:
            self._require_clearer_than_clouds(best)

    def _require_clearer_than_clouds(self, clear: float) -> None:
        """Take all as one facet where one cloud falls into as clear groups, once in twenty."""
        found = []
        for cloud in range(CLOUDS):
            self.job.tick()
            vectors = self.vectors.one_cloud(self.seed + cloud)
            found.append(vectors.silhouettes(vectors.groups(self.count, self.seed)).mean())
        self.limit = max(found)
        if clear <= self.limit:
            self.job.remark(
                f"{self.count} groups are no clearer (mean silhouette {clear:.2f}) than those of "
                f"one cloud without groups (up to {self.limit:.2f} of {CLOUDS}), so the neuron has "
                "one facet."
            )
            self.labels = np.zeros(len(self.own), dtype=int)

    @property
    def count(self) -> int:
        """How many facets there are."""
        return int(self.labels.max()) + 1

    def declare(self, variables: Iterable[str], each: int, around: int) -> None:
        """Name the facets by their tokens, and their places by the words around."""
        self.members = [self.vectors.nearest(self.labels, facet) for facet in range(self.count)]
        self.tokens = [
            Counter(self.own[one].token for one in some).most_common(TOKENS)
            for some in self.members
        ]
        self.shown = [one for some in self.members for one in some[:each]]
        names = [
            f"{facet + 1}: {' '.join(map(self._word, (token for token, _ in some)))}"
            for facet, some in enumerate(self.tokens)
        ]
        words = [
            written(self.model, self.own[one].row, self.own[one].position, around)
            for one in self.shown
        ]
        numbers = np.arange(2, self.most + 1, dtype=np.int32)
        ranks = np.arange(1, TOKENS + 1, dtype=np.int32)
        coords = {"groups": numbers, "facet": np.array(names), "rank": ranks,
                  "example": np.array(words)}  # fmt: skip
        sizes = {name: len(values) for name, values in coords.items()}
        known = [name for name in variables if self.draws or name != "random_silhouette"]
        self.job.declare(sizes, {name: ((name,), one) for name, one in coords.items()}, known)

    def _word(self, token: int) -> str:
        return repr(self.model.token_string(token))[1:-1]

    def facets(self, each: int) -> None:
        """Hand over the facets, and the places nearest to the centre of each."""
        values = np.array([one.value for one in self.own])
        silhouettes = self.vectors.silhouettes(self.labels) if self.count > 1 else None
        counts = np.bincount(self.labels)
        tokens = np.full((self.count, TOKENS), -1, np.int32)
        for facet, some in enumerate(self.tokens):
            tokens[facet, : len(some)] = [token for token, _ in some]
        means = {"mean_activation": values, "own_silhouette": silhouettes}
        self._emit(
            silhouette=self.clear,
            places=counts.astype(np.int32),
            share=counts / counts.sum(),
            token=tokens,
            facets=self.count,
            contexts=len(self.own),
            counted=self.contexts.counted,
            cloud_limit=self.limit,
            **{name: self._mean(some) for name, some in means.items()},
        )
        places = [self.own[one] for one in self.shown]
        self._emit(
            of_facet=self.labels[self.shown] + 1,
            activation=values[self.shown],
            text=[place.text for place in places],
            position=[place.position for place in places],
        )
        self.job.note(texts=self.contexts.rows, passes=1)

    def _mean(self, values: np.ndarray | None) -> np.ndarray:
        """Mean over each facet; NaN where there is nothing to be averaged."""
        if values is None:
            return np.full(self.count, np.nan)
        return np.array([values[some].mean() for some in self.members])

    def _emit(self, **found: Any) -> None:
        self.job.emit({}, {name: np.asarray(value) for name, value in found.items()})

    def controls(self) -> None:
        """The same for places at random, one cloud without groups, and other neurons."""
        drawn = self.contexts.drawn.above(0)[: len(self.own)]
        by_chance = self._clear([Vectors.of(drawn)])
        self._emit(silhouette_baseline=by_chance)
        self._emit(silhouette_chance=self._clear([self.vectors.one_cloud(self.seed)]))
        if self.draws:
            others = [best.above(self.above) for best in self.contexts.best[1:]]
            found = self._clear([Vectors.of(one) for one in others if one])
            self._emit(random_silhouette=found)
        at = self.count - 2
        if at >= 0 and by_chance[at] >= self.clear[at]:
            self.job.remark(
                f"The facets are no clearer than groups of places drawn at random (mean silhouette "
                f"{self.clear[at]:.2f}, there {by_chance[at]:.2f}): they may be of the texts, and "
                "not of the neuron."
            )

    def _clear(self, several: Sequence[Vectors]) -> np.ndarray:
        """Mean over sets of vectors of the mean silhouette of each number of groups."""
        found = np.full((len(several), self.most - 1), np.nan)
        for row, vectors in zip(found, several, strict=True):
            for number, _, mean in vectors.tried(self.most, self.seed, self.job.tick):
                row[number - 2] = mean
        counts = np.isfinite(found).sum(0)
        means: np.ndarray = np.nansum(found, axis=0) / np.where(counts, counts, np.nan)
        return means

    def stable(self, stable: float) -> None:
        """Whether other starts, and half of the places, give the same groups."""
        starts = halves = np.nan
        if self.count > 1:
            seeds = range(self.seed + 1, self.seed + 1 + self.seeds)
            starts = self.vectors.other_starts(self.labels, seeds)
            self.job.tick()
            halves = self.vectors.other_halves(self.labels, seeds)
            if starts < stable:
                self.job.remark(
                    f"The facets are unstable: other starts of k-means give other groups (adjusted "
                    f"Rand index {starts:.2f}, below {stable:g})."
                )
        self._emit(stability=starts, half_stability=halves)

    def check(self) -> None:
        """Run the text of the strongest place by itself."""
        best = self.own[0]
        alone = activations(self.model, self.job.tokens(best.row.ids), self.layer, self.number)
        off = abs(float(alone[best.position]) - best.value) / max(1e-12, abs(best.value))
        self.job.check(
            "the strongest place alone", off, logit_tolerance(self.model.dtype),
            "activation there in a pass over its text alone, off by this share of it",
        )  # fmt: skip
