"""The strongest edges of a task as a graph, with what cutting some of them really does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import spearmanr

from layerlens.analyses.circuits.edge_nodes import Part
from layerlens.analyses.circuits.edge_scores import EdgeScores, cut
from layerlens.analyses.circuits.graph import (
    PART,
    influence_arrays,
)
from layerlens.analyses.circuits.graph import VARIABLES as GRAPH
from layerlens.analyses.circuits.influence import Links, link_influence, node_influence
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.patching.pair_runs import distinct
from layerlens.analyses.sweeps.clean_pass import tolerance

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job

_OWN = {
    "weight": Variable(
        ("link",), "float32", "1", "share of the difference, estimated", signed=True
    ),
    "link_effect": Variable(
        ("link",), "float32", "1", "share of the difference when it is patched", signed=True
    ),
}
VARIABLES = {
    name: _OWN.get(name, variable)
    for name, variable in {**GRAPH, **_OWN}.items()
    if name not in ("activation", "probability")
} | {
    "node_position": Variable(
        ("node",), "int32", "1", "column: 0 of heads, 1 of the tokens and the answer, 2 of MLPs"
    )
}
NONE = np.nan


class EdgeGraph:
    """Collects edges from the answer down, and keeps the strongest.

    Parameters
    ----------
    scores
        What estimates them.
    most
        How many are kept.
    """

    def __init__(self, job: Job, scores: EdgeScores, most: int) -> None:
        self.job, self.scores, self.most = job, scores, most
        self.kept: list[tuple[float, str, str]] = []
        self.parts = {part.name: part for part in scores.parts}
        self.effects: dict[tuple[str, str], float] = {}
        edges, metric = scores.edges, scores.metric
        self.value, self.other = (
            float(metric(run.final.unsqueeze(0))[0]) for run in (edges.base, edges.source)
        )
        if not distinct(self.value, self.other):
            job.remark(
                "Both texts give nearly the same value of the metric, so there is nothing to "
                "recover (NaN): choose texts or tokens that the model tells apart."
            )
        self.count = 0

    @property
    def gap(self) -> float:
        """The other text's value less that of the text that is changed."""
        return self.other - self.value if distinct(self.value, self.other) else NONE

    def add(self, receiver: Part) -> None:
        """Score what enters a part."""
        found = self.scores.entering(receiver)
        self.count += len(found)
        self.kept += [(score, sender, receiver.name) for sender, score in found.items() if score]
        self.kept.sort(key=lambda edge: -abs(edge[0]))
        del self.kept[self.most :]

    def verify(self, count: int, generator: np.random.Generator) -> None:
        """Patch the strongest edges, and as many drawn from all, and compare with the estimates."""
        strongest = [(sender, receiver) for _, sender, receiver in self.led()[:count]]
        drawn = self._drawn(count, generator)
        found = {
            "": self._compared(strongest),
            "_random": self._compared(drawn),
        }
        for name, (estimates, truths) in found.items():
            if len(estimates) > 2:
                self.job.note(**{f"estimate_spearman{name}": _spearman(estimates, truths)})
        if strongest:
            estimates, truths = found[""]
            alike = sum(np.sign(estimates) == np.sign(truths))
            self.job.remark(
                f"Of the {len(strongest)} strongest edges that were really patched, {alike} move "
                f"the answer the way that was estimated; together {np.sum(truths):.2f} of the "
                f"difference, estimated {np.sum(estimates):.2f}."
            )

    def _drawn(self, count: int, generator: np.random.Generator) -> list[tuple[str, str]]:
        """Edges of all there are, drawn at random."""
        parts = list(self.parts.values())
        drawn: list[tuple[str, str]] = []
        while len(drawn) < count:
            sender, receiver = (parts[i] for i in generator.integers(0, len(parts), 2))
            if sender.reaches(receiver):
                drawn.append((sender.name, receiver.name))
        return drawn

    def _compared(self, edges: list[tuple[str, str]]) -> tuple[list[float], list[float]]:
        """Estimates and true effects, as shares of the difference."""
        estimates, truths = [], []
        for sender, receiver in edges:
            ends = self.parts[sender], self.parts[receiver]
            self.job.tick()
            estimates.append(self.scores.entering(ends[1])[sender] / self.gap)
            if (sender, receiver) not in self.effects:
                value = cut(self.scores.edges, self.scores.metric, *ends)
                self.effects[sender, receiver] = (value - self.value) / self.gap
                self.scores.passes += 2
            truths.append(self.effects[sender, receiver])
        return estimates, truths

    def led(self) -> list[tuple[float, str, str]]:
        """The kept edges from whose upper end others lead to the answer."""
        edges = self.kept
        while True:
            leading = {sender for _, sender, _ in edges} | {"answer"}
            left = [edge for edge in edges if edge[2] in leading]
            if len(left) == len(edges):
                return left
            edges = left

    def check(self) -> None:
        """What enters a part together has to be what its whole input does."""
        answer = self.parts["answer"]
        tops = [part for part in self.parts.values() if part.receives and not part.is_mlp]
        errors = [self.scores.missing(part) for part in [answer, *tops[-2:]]]
        off = max(error / max(1.0, whole) for error, whole in errors)
        self.job.check(
            "edges add up", off, 10 * tolerance(self.scores.model),
            "what enters the answer and the topmost heads, edge by edge, from what their whole "
            "input does, both by derivatives, as a share of that or of 1",
        )  # fmt: skip

    def hand_over(self) -> None:
        """The graph of the kept edges."""
        edges = self.led()
        names = {name for _, *ends in edges for name in ends} | {"tokens", "answer"}
        parts = [part for part in self.scores.parts if part.name in names]
        place = {part.name: i for i, part in enumerate(parts)}
        links = Links(
            np.array([place[sender] for _, sender, _ in edges], dtype=np.int64),
            np.array([place[receiver] for *_, receiver in edges], dtype=np.int64),
            np.array([score for score, *_ in edges]) / self.gap,
            len(parts),
        )
        answers = np.array([float(part.name == "answer") for part in parts])
        influence = node_influence(links, answers)
        labels = np.array([part.name for part in parts], dtype=object)
        self.job.declare(
            {"node": len(parts), "link": len(edges)},
            {"node": (("node",), labels), "words": (("node",), labels)},
        )
        self.job.emit({}, {**self._nodes(parts), **influence_arrays(influence)})
        effects = [self.effects.get((sender, receiver), NONE) for _, sender, receiver in edges]
        found = {
            "source": links.source,
            "target": links.target,
            "weight": links.weight,
            "link_influence": link_influence(links, answers),
            "link_effect": np.array(effects),
        }
        self.job.emit({}, {n: array.astype(VARIABLES[n].dtype) for n, array in found.items()})
        metric = self.scores.metric
        self.job.note(
            passes=self.scores.passes + 2,
            edges_scored=self.count,
            metric=metric.name,
            metric_words=metric.words,
            answer=metric.answer,
            direction=self.scores.edges.pair.words,
            **({} if metric.wrong is None else {"wrong": metric.wrong}),
        )

    def _nodes(self, parts: list[Part]) -> dict[str, np.ndarray]:
        found = {
            "kind": [PART] * len(parts),
            "node_layer": [part.layer for part in parts],
            "node_position": [_column(part) for part in parts],
            "feature": [part.number for part in parts],
        }
        return {name: np.array(v).astype(VARIABLES[name].dtype) for name, v in found.items()}


def _column(part: Part) -> int:
    """Where a part is drawn: heads on the left, MLPs on the right, the ends between them."""
    return 2 if part.is_mlp else 0 if part.sends and part.layer >= 0 else 1


def _spearman(one: list[float], other: list[float]) -> float:
    return float(spearmanr(one, other).statistic)
