"""How much of the answer graphs of more and more edges keep, beside graphs of random edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.circuits.edge_nodes import Edge, Part
from layerlens.analyses.circuits.kept_edges import KeptEdges
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.patching.pair_runs import distinct

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job

GRAPHS = ("strongest by estimate", "largest of those patched", "on random ways to the answer")
ENOUGH = 0.9
"""Share of the difference from which a graph is said to keep it."""
DEFAULT_SIZES = (1, 3, 10, 30, 100, 300, 1000, 3000)


def _share(words: str) -> Variable:
    return Variable(("edges_kept", "edges"), "float32", "1", words, signed=True)


_KEPT = "share of the difference that a graph keeps"
VARIABLES = {
    f"{prefix}faithfulness{end}": _share(f"{_KEPT}{of}{words}")
    for prefix, of in (("", ""), ("others_", ", other texts"))
    for end, words in (("", ""), ("_low", ", least of random graphs"),
                       ("_high", ", largest of random graphs"))
}  # fmt: skip


def sizes_of(asked: Sequence[int], count: int) -> list[int]:
    """How many edges the graphs have that are run: what was asked for, below all there are."""
    return sorted({size for size in asked if size < count})


def random_ways(parts: Sequence[Part], count: int, generator: np.random.Generator) -> list[Edge]:
    """Different edges, each drawn with a random way from the tokens and one to the answer.

    Edges drawn without their ways would nearly all lead nowhere, and be no control.

    Examples
    --------
    >>> import layerlens as ll
    >>> from layerlens.analyses.circuits.edge_nodes import parts_of
    >>> parts = parts_of(ll.load("toy:induction"))
    >>> len(set(random_ways(parts, 9, np.random.default_rng(0))))
    9
    """
    names = [part.name for part in parts]
    reach = np.array([[one.reaches(other) for other in parts] for one in parts])
    left = np.argwhere(reach)
    generator.shuffle(left)
    found: dict[Edge, None] = {}
    for start, end in left.tolist():
        if len(found) >= count:
            break
        if (names[start], names[end]) in found:
            continue
        way = [start, end]
        while reach[:, way[0]].any():
            way.insert(0, int(generator.choice(np.flatnonzero(reach[:, way[0]]))))
        while reach[way[-1]].any():
            way.append(int(generator.choice(np.flatnonzero(reach[way[-1]]))))
        ways = pairwise(way)
        found |= dict.fromkeys((names[one], names[other]) for one, other in ways)
    return list(found)[:count]


class Faithfulness:
    """Graphs of one choice of edges, run in texts.

    Parameters
    ----------
    runs
        For the text that edges were chosen in, then for others.
    strongest, patched
        Edges from the strongest down: by estimate, and those whose true effect is known by that.
    draws
        How many random graphs there are.
    """

    def __init__(
        self,
        job: Job,
        runs: Sequence[KeptEdges],
        strongest: Sequence[Edge],
        patched: Sequence[Edge],
        draws: int,
        generator: np.random.Generator,
    ) -> None:
        self.job, self.runs = job, runs
        self.number = {part.name: i for i, part in enumerate(runs[0].parts)}
        self.chosen = [list(strongest), list(patched)]
        self.draws, self.generator = draws, generator
        self.ends = [self._ends(run) for run in runs]

    def _ends(self, run: KeptEdges) -> tuple[float, float]:
        """The metric with no edge kept, and with all."""
        none, every = run.values(np.stack([self._mask([]), np.ones_like(self._mask([]))]))
        return float(none), float(every)

    def _mask(self, edges: Sequence[Edge]) -> np.ndarray:
        found = np.zeros((len(self.number), len(self.number)), dtype=bool)
        for sender, receiver in edges:
            found[self.number[sender], self.number[receiver]] = True
        return found

    def follow(self, sizes: Sequence[int]) -> None:
        """Run graphs of each size, and hand each on."""
        most = max(sizes, default=0)
        drawn = [random_ways(self.runs[0].parts, most, self.generator) for _ in range(self.draws)]
        told = []
        for done, size in enumerate(sizes, 1):
            graphs = [edges[:size] for edges in self.chosen if len(edges) >= size]
            masks = np.stack([self._mask(edges) for edges in [*graphs, *(d[:size] for d in drawn)]])
            shares = [self._shares(run, masks, ends)
                      for run, ends in zip(self.runs, self.ends, strict=True)]  # fmt: skip
            found = dict(self._named("", shares[:1], len(graphs)))
            if len(shares) > 1:
                found |= dict(self._named("others_", shares[1:], len(graphs)))
            self.job.emit({"edges_kept": done - 1}, found)
            self.job.progress(done, len(sizes), f"graphs of {size} edges")
            told.append((size, float(shares[0][0]), float(shares[0][len(graphs) :].mean())))
        self._say(told)

    def _say(self, told: Sequence[tuple[int, float, float]]) -> None:
        """The smallest graph that keeps most of the difference; else the largest that was run."""
        enough = [one for one in told if one[1] >= ENOUGH]
        size, share, random = (enough or told)[0 if enough else -1]
        if np.isfinite(share):
            self.job.remark(
                f"By themselves the {size:,} strongest of {len(self.chosen[0]):,} edges keep "
                f"{share:.0%} of the difference, as many on random ways {random:.0%}."
            )

    def _shares(self, run: KeptEdges, masks: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
        none, every = ends
        if not distinct(every, none):
            return np.full(len(masks), np.nan)
        return (run.values(masks) - none) / (every - none)

    def _named(
        self, prefix: str, shares: Sequence[np.ndarray], chosen: int
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Means over texts: of the chosen graphs, and of random ones with their ends."""
        mean = np.mean(shares, axis=0)
        random = mean[chosen:]
        for end, value in (("", random.mean()), ("_low", random.min()), ("_high", random.max())):
            found = np.full(len(GRAPHS), np.nan, dtype=np.float32)
            found[-1] = value
            if not end:
                found[:chosen] = mean[:chosen]
            yield f"{prefix}faithfulness{end}", found

    def check(self, own: float, edge: Edge | None, value: float | None, limit: float) -> None:
        """All edges are the model; all but one are that edge patched, where nothing is zeroed."""
        [run, *_], [(_, every), *_] = self.runs, self.ends
        self.job.check(
            "a graph of all edges is the model", abs(every - own), limit,
            "the metric with every part reading a stream of its own, from the run as it is",
        )  # fmt: skip
        if edge is not None and value is not None and not run.zero:
            mask = ~self._mask([edge])
            self.job.check(
                "all edges but one are that edge patched",
                abs(float(run.values(mask[None])[0]) - value), limit,
                "the metric without the strongest edge that was patched, from patching it alone",
            )  # fmt: skip
