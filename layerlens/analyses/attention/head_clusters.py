"""Heads in groups: those that look at the same texts in the same way."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.attention.clustering import silhouettes, trees_cut
from layerlens.analyses.attention.head_cells import heads_seen, open_neighbours
from layerlens.analyses.attention.head_distances import HeadDistances, shuffled
from layerlens.analyses.attention.head_looks import ROLES, HeadLooks
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.metrics.batch import Batch
    from layerlens.metrics.layer import Layer
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("layer", "head")
_NUMBER = ("groups",)
VARIABLES = {
    "cluster": Variable(_CELL, "int32", "1", "group of the head"),
    "silhouette": Variable(
        _CELL, "float64", "1", "how much nearer the head is to its own group than to the next"
    ),
    "distance": Variable(
        ("layer_head", "layer_head_other"),
        "float64",
        "nats",
        "Jensen-Shannon divergence of the heads' attention",
        formula="mean over queries of H((a + b) / 2) - (H(a) + H(b)) / 2",
    ),
    "silhouette_mean": Variable(
        _NUMBER, "float64", "1", "mean silhouette with so many groups", source="Rousseeuw (1987)"
    ),
    "silhouette_mean_chance": Variable(
        _NUMBER, "float64", "1", "mean silhouette with so many groups, keys shuffled"
    ),
    "group_looks": Variable(
        ("group", "role"), "float64", "1", "mean attention of the group to what the role looks at"
    ),
    "group_size": Variable(("group",), "int32", "1", "heads in the group"),
}


def count_work(
    model: LensModel, tokens: Tokens, *, groups: int | None, most: int, longest: int, seed: int
) -> Work:
    """Count passes, bytes and operations of one call; runs nothing."""
    heads = len(heads_seen(model))
    lengths = [min(length, longest) for length in tokens.lengths]
    cells = [n * (n + 1) // (1 if model.bidirectional else 2) for n in lengths]
    operations = 2 * 20.0 * sum(cells) * heads * heads / 2  # by the model and by the control
    largest = max(lengths) ** 2 * heads
    return Work(1.0, len(lengths), 4 * (4 * largest + 4 * heads * heads), operations=operations)


@analysis(
    name="head_clusters",
    question="Which heads look alike, and into how many kinds do they fall?",
    source="Clark et al. (2019), What Does BERT Look At?, arXiv 1906.04341 (distances); "
    "Rousseeuw (1987), Silhouettes (number of groups)",
    cost="1 pass a text, and a comparison of every two heads",
    view="grid",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    pooled=True,
    needs=("attention",),
    lead="Heads with the same number look at these texts alike; a group is real as far as its "
    "silhouettes are above those of shuffled keys (silhouette_mean_chance).",
    opens=open_neighbours,
)
def head_clusters(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    groups: int | None = None,
    most: int = 12,
    longest: int = 128,
    seed: int = 0,
) -> None:
    """Put the heads of all layers into groups by how differently they look at texts.

    The distance of two heads is the Jensen-Shannon divergence of their attention, averaged over
    the queries of all texts (the first of a text, which sees itself alone, left out). Groups are
    those of average linkage.

    Parameters
    ----------
    groups
        How many groups; None for the number with the largest mean silhouette.
    most
        The largest number of groups.
    longest
        Of longer texts, so many tokens from the beginning are compared.
    seed
        Of the shuffles of the control.

    Notes
    -----
    ``cluster`` numbers the groups in the order in which heads first fall into them.
    ``group_looks`` says what the heads of a group look at, as ``ll.head_roles`` does; the
    attribute ``group_names`` has the role with the most for each. The control deals each
    head's weights out anew among the keys that a query can see: how widely heads look, and so
    part of what makes groups, stays; where they look is lost.

    Raises
    ------
    InputError
        There are fewer than three heads or than two tokens, or an option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.head_clusters(model, "cat dog owl cat dog owl")
    >>> found.data.cluster.shape
    (2, 4)
    """
    most, longest = whole(most, "most"), whole(longest, "longest")
    heads = heads_seen(model)
    if len(heads) < 3:
        raise InputError(f"{model.name} has {len(heads)} heads; groups need three or more.")
    if most < 2:
        raise InputError(f"most is {most}; expected 2 groups or more.")
    if groups is not None and not 2 <= whole(groups, "groups") <= min(most, len(heads) - 1):
        raise InputError(
            f"groups is {groups}; expected 2 to {min(most, len(heads) - 1)}, the most of them."
        )
    if longest < 2 or max(tokens.lengths) < 2:
        raise InputError("Heads are compared from the second token on: give longer texts.")
    run = _Run(job, model, heads, most, longest, seed)
    run.read(tokens)
    run.conclude(groups)


class _Run:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        heads: list[tuple[int, int]],
        most: int,
        longest: int,
        seed: int,
    ) -> None:
        self.job, self.model, self.heads = job, model, heads
        self.most, self.longest = min(most, len(heads) - 1), longest
        self.real, self.dealt = (HeadDistances(len(heads)) for _ in range(2))
        self.looks = HeadLooks(ModelShape.of(model))
        self._generator = torch.Generator().manual_seed(seed)
        self._patterns: list[Tensor] = []
        self._declare()

    def _declare(self) -> None:
        shape = ModelShape.of(self.model)
        names = np.array([f"L{layer}H{head}" for layer, head in self.heads])
        sizes = {axis: shape.sizes[axis] for axis in _CELL}
        coords = {axis: shape.coords[axis] for axis in _CELL}
        for axis, values in {
            "layer_head": names,
            "layer_head_other": names,
            "groups": np.arange(2, self.most + 1, dtype=np.int32),
            "group": np.arange(self.most, dtype=np.int32),
            "role": np.array(list(ROLES)),
        }.items():
            sizes[axis], coords[axis] = len(values), ((axis,), values)
        self.job.declare(sizes, coords)

    def read(self, tokens: Tokens) -> None:
        """Run the texts one by one, and compare the heads after each."""
        batches = [part for part in split(tokens, 1) if part[0].ids.shape[1] > 1]
        done = iter(range(1, len(batches) + 1))

        def keep(layer: Layer) -> None:
            for _, pattern in layer.patterns() if layer.has("pattern") else ():
                self._patterns.append(pattern[0, :, 1 : self.longest, : self.longest].cpu())

        def compare(batch: Batch) -> None:
            patterns = torch.cat(self._patterns).float()
            self._patterns.clear()
            self.real.add(patterns, self.job.tick)
            self.dealt.add(shuffled(patterns, self._generator), self.job.tick)
            self.job.progress(next(done), len(batches), "texts")

        metrics = MetricSet(self.looks.shape, [self.looks], 1)
        passes = run_metrics(
            self.model, batches, metrics, tick=self.job.tick, on_layer=keep, on_batch=compare
        )
        self.job.note(passes=passes, texts=len(batches))

    def conclude(self, groups: int | None) -> None:
        """Cut the tree, choose the number of groups and hand all over."""
        distance = self.real.matrix
        self.job.emit({}, {"distance": distance})
        means = {name: np.full(self.most - 1, np.nan) for name in ("", "_chance")}
        for name, found in (("", self.real), ("_chance", self.dealt)):
            for number, labels in trees_cut(found.matrix, self.most).items():
                means[name][number - 2] = silhouettes(found.matrix, labels).mean()
        self.job.emit({}, {f"silhouette_mean{name}": mean for name, mean in means.items()})
        outside = np.abs(distance - distance.clip(0, math.log(2))).max()
        self.job.check("bounds", float(outside), 1e-6, "divergences beyond 0 to ln 2 (nats)")
        trees = trees_cut(distance, self.most)
        if not trees or (groups is not None and groups not in trees):
            self.job.remark("Too many heads look exactly alike here to fall into such groups.")
            return
        self._groups(trees[groups or int(np.nanargmax(means[""])) + 2])

    def _groups(self, labels: np.ndarray) -> None:
        shape = (self.model.n_layers, self.model.n_heads)
        cluster, silhouette = np.full(shape, -1), np.full(shape, np.nan)
        layer, head = np.array(self.heads).T
        cluster[layer, head] = labels
        silhouette[layer, head] = silhouettes(self.real.matrix, labels)
        values = self.looks.value(False)
        looks = np.stack([values[role][layer, head] for role in ROLES], -1)
        number = labels.max() + 1
        mean = np.stack([looks[labels == group].mean(0) for group in range(number)])
        assert self.job.parts is not None  # _declare has made them
        most = self.job.parts.sizes["group"]  # there are no more groups, but there might have been
        shown = np.full((most, len(ROLES)), np.nan)
        shown[:number] = mean
        counts = np.full(most, -1)
        counts[:number] = np.bincount(labels)
        self.job.emit({}, {"cluster": cluster, "silhouette": silhouette})
        self.job.emit({}, {"group_looks": shown, "group_size": counts})
        known = np.nan_to_num(mean, nan=-1.0)
        names = [list(ROLES)[best] for best in known.argmax(-1)]
        self.job.note(groups=int(number), group_names=json.dumps(names))
