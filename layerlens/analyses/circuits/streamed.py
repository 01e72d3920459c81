"""An attribution graph on its way to who looks at it, while it grows and when it is done.

How many nodes and links will stay is known at the end only, so there is room for all there can be;
what came and was pruned again leaves its room, and the end of it is left off when all is known.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.circuits.graph import (
    FEATURE,
    OUTPUT,
    TOKEN,
    VARIABLES,
    Nodes,
    influence_arrays,
    link_arrays,
)
from layerlens.analyses.circuits.influence import Links, Pruned, node_influence, pruned

if TYPE_CHECKING:
    from layerlens.analyses.circuits.growing import Growing
    from layerlens.analyses.contract.job import Job

SECONDS_BETWEEN = 0.5
"""To prune a graph takes about as long as to follow a few of its features."""


class Streamed:
    """Hands a growing graph on: tokens, outputs, errors, then features as they are followed.

    Parameters
    ----------
    growing
        What grows.
    most
        Features that are followed, at most.
    thresholds
        What is pruned, as `pruned` takes them.
    """

    def __init__(
        self, job: Job, growing: Growing, most: int, thresholds: Mapping[str, float]
    ) -> None:
        self.job, self.growing, self.thresholds = job, growing, dict(thresholds)
        self.errors = len(growing.run.writes) * growing.run.length
        outputs = len(growing.outputs.tokens)
        self.fixed = growing.run.length + outputs + self.errors
        features = min(most, growing.features)
        self.size = self.fixed + features
        self.room = (features + outputs) * (self.size - outputs)
        self.links = 0
        self._last = -float("inf")
        self._declared = False

    def pruned(self, nodes: Nodes, links: Links) -> Pruned:
        """Which nodes and links of a graph are left."""
        return pruned(
            links,
            nodes.answers,
            always=(nodes.kind == TOKEN) | (nodes.kind == OUTPUT),
            inner=nodes.kind == FEATURE,
            **self.thresholds,
        )

    def show(self) -> None:
        """Hand on the graph of what was followed by now, unless that was done a moment ago."""
        if time.monotonic() - self._last < SECONDS_BETWEEN:
            return
        nodes, links = self.growing.graph()
        left = self.pruned(nodes, links)
        self._put(nodes, links.kept(left.links), left.nodes, self._slots())
        self._last = time.monotonic()

    def _slots(self) -> np.ndarray:
        """Where each node of the growing graph has its room: those of before keep theirs."""
        followed = self.growing.followed
        length, outputs = self.growing.run.length, len(self.growing.outputs.tokens)
        order = np.argsort(np.argsort(followed)) if followed else np.empty(0, dtype=np.int64)
        features = np.empty(len(followed), dtype=np.int64)
        features[order] = self.fixed + np.arange(len(followed))
        return np.concatenate([
            np.arange(length), features, length + outputs + np.arange(self.errors),
            length + np.arange(outputs),
        ])  # fmt: skip

    def close(self, nodes: Nodes, links: Links) -> None:
        """Hand on the graph as it stays, and leave off the room that nothing took."""
        count = len(nodes.ids)
        self._put(nodes, links, np.ones(count, dtype=bool), np.arange(count))
        self.job.shorten("node", count)
        self.job.shorten("link", len(links.weight))

    def _put(self, nodes: Nodes, links: Links, left: np.ndarray, slots: np.ndarray) -> None:
        """Put those nodes that are left into their room, and their links, the others away."""
        self._name({"node": nodes.ids, "words": nodes.words}, slots)
        influence = node_influence(links, nodes.answers)
        arrays = {**nodes.arrays(), **influence_arrays(influence)}
        self.job.emit({}, {name: self._spread(name, a, left, slots) for name, a in arrays.items()})
        found = link_arrays(links, nodes.answers)
        for end in ("source", "target"):
            found[end] = slots[found[end]].astype(VARIABLES[end].dtype)
        count = len(links.weight)
        if count:
            self.job.emit({"link": slice(0, count)}, found)
        if count < self.links:  # of the graph before, more were left
            gone = {name: np.full(self.links - count, VARIABLES[name].fill, VARIABLES[name].dtype)
                    for name in found}  # fmt: skip
            self.job.emit({"link": slice(count, self.links)}, gone)
        self.links = count

    def _name(self, names: Mapping[str, Sequence[str]], slots: np.ndarray) -> None:
        """Say what the nodes are called that have come by now."""
        coords: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        for coord, own in names.items():
            found = np.full(self.size, "", dtype=object)
            found[slots] = own
            coords[coord] = (("node",), found)
        if self._declared:
            self.job.label(coords)
        else:
            self.job.declare({"node": self.size, "link": self.room}, coords)
        self._declared = True

    def _spread(
        self, name: str, values: np.ndarray, left: np.ndarray, slots: np.ndarray
    ) -> np.ndarray:
        found = np.full(self.size, VARIABLES[name].fill, dtype=VARIABLES[name].dtype)
        found[slots[left]] = values[left]
        return found
