"""The strongest edges of a task as a graph, with what cutting some of them really does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import spearmanr

from layerlens.analyses.circuits.edge_faithfulness import Faithfulness
from layerlens.analyses.circuits.edge_nodes import Edge, Part, edge_count
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
    from layerlens.analyses.circuits.kept_edges import KeptEdges
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.contract.parts import Coords

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
    ),
    "estimate_spearman": Variable(
        ("edges_patched",), "float32", "1", "rank correlation of estimates with patching",
        signed=True, unclipped=True,
    ),
}  # fmt: skip
Scored = tuple[float, str, str]
"""What an edge is estimated to do, and its ends."""
PATCHED = ("strongest", "drawn at random")
NONE = np.nan


class EdgeGraph:
    """Collects edges from the answer down, and keeps the strongest.

    Parameters
    ----------
    scores
        What estimates them.
    most
        How many are kept.
    sizes, coords
        Of further axes that the answer has.
    variables
        Which arrays it has.
    """

    def __init__(
        self,
        job: Job,
        scores: EdgeScores,
        most: int,
        sizes: Mapping[str, int],
        coords: Coords,
        variables: Sequence[str],
    ) -> None:
        self.job, self.scores = job, scores
        self.all: list[Scored] = []
        self.kept: list[Scored] = []
        self.parts = {part.name: part for part in scores.parts}
        self.effects: dict[Edge, float] = {}
        edges, metric = scores.edges, scores.metric
        self.value, self.other = (
            float(metric(run.final.unsqueeze(0))[0]) for run in (edges.base, edges.source)
        )
        if not distinct(self.value, self.other):
            job.remark(
                "Both texts give nearly the same value of the metric, so there is nothing to "
                "recover (NaN): choose texts or tokens that the model tells apart."
            )
        self.most = min(most, edge_count(scores.parts))
        labels = np.array([*self.parts], dtype=object)
        job.declare(
            {"node": len(labels), "link": self.most, "edges_patched": len(PATCHED), **sizes},
            {
                "node": (("node",), labels),
                "words": (("node",), labels),
                "edges_patched": (("edges_patched",), np.array(PATCHED)),
                **coords,
            },
            variables,
        )
        self._tell()

    def _tell(self) -> None:
        metric = self.scores.metric
        self.job.note(
            metric=metric.name,
            metric_words=metric.words,
            answer=metric.answer,
            direction=self.scores.edges.pair.words,
            **({} if metric.wrong is None else {"wrong": metric.wrong}),
        )

    @property
    def gap(self) -> float:
        """The other text's value less that of the text that is changed."""
        return self.other - self.value if distinct(self.value, self.other) else NONE

    def add(self, receiver: Part) -> None:
        """Score what enters a part, and hand the graph on as it is by now."""
        found = self.scores.entering(receiver)
        scored = [(score, sender, receiver.name) for sender, score in found.items()]
        self.all += scored
        self.kept += [one for one in scored if one[0]]
        self.kept.sort(key=_strength)
        del self.kept[self.most :]
        self.show()

    @property
    def strongest(self) -> list[Edge]:
        """All edges by their estimates, those that were patched among them."""
        return [edge for _, *edge in sorted(self.all, key=_strength)]  # type: ignore[misc]

    @property
    def patched(self) -> list[Edge]:
        """The edges that were patched, by what that did."""
        return sorted(self.effects, key=lambda edge: -abs(self.effects[edge]))

    def verify(self, count: int, generator: np.random.Generator) -> None:
        """Patch the strongest edges, and as many drawn from all, and compare with the estimates."""
        strongest = [(sender, receiver) for _, sender, receiver in self.led()[:count]]
        found = [self._compared(strongest), self._compared(self._drawn(count, generator))]
        said = []
        for i, (name, (estimates, truths)) in enumerate(zip(("", "_random"), found, strict=True)):
            value = float(spearmanr(estimates, truths).statistic) if len(truths) > 2 else NONE
            self.job.emit({"edges_patched": i}, {"estimate_spearman": np.array(value)})
            if len(truths) > 2:
                self.job.note(**{f"estimate_spearman{name}": value})
                words = f"the {len(truths)} strongest", f"{len(truths)} drawn at random"
                said.append(f"{value:.2f} among {words[i]}")
        if said:
            self.job.remark(
                "Rank correlation of estimates with what patching an edge really changes: "
                f"{', '.join(said)}."
            )
        if strongest:
            estimates, truths = found[0]
            alike = sum(np.sign(estimates) == np.sign(truths))
            self.job.remark(
                f"Of the {len(strongest)} strongest edges that were really patched, {alike} move "
                f"the answer the way that was estimated; together {np.sum(truths):.2f} of the "
                f"difference, estimated {np.sum(estimates):.2f}."
            )

    def _drawn(self, count: int, generator: np.random.Generator) -> list[Edge]:
        """Edges of all there are, drawn at random."""
        parts = list(self.parts.values())
        drawn: list[Edge] = []
        while len(drawn) < count:
            sender, receiver = (parts[i] for i in generator.integers(0, len(parts), 2))
            if sender.reaches(receiver):
                drawn.append((sender.name, receiver.name))
        return drawn

    def _compared(self, edges: list[Edge]) -> tuple[list[float], list[float]]:
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
                self.show()
            truths.append(self.effects[sender, receiver])
        return estimates, truths

    def led(self) -> list[Scored]:
        """The kept edges from whose upper end others lead to the answer."""
        edges = self.kept
        while True:
            leading = {sender for _, sender, _ in edges} | {"answer"}
            left = [edge for edge in edges if edge[2] in leading]
            if len(left) == len(edges):
                return left
            edges = left

    def run(
        self,
        runs: Sequence[KeptEdges],
        sizes: Sequence[int],
        draws: int,
        generator: np.random.Generator,
    ) -> None:
        """Run graphs of the strongest edges, in this text and in others."""
        found = Faithfulness(self.job, runs, self.strongest, self.patched, draws, generator)
        found.follow(sizes)
        edge = self.patched[0] if self.patched else None
        value = self.effects[edge] * self.gap + self.value if edge else None
        found.check(self.value, edge, value, self._limit())
        self.scores.passes += sum(run.passes for run in runs)

    def _limit(self) -> float:
        """How far two ways to one value of the metric may differ."""
        sizes = [1.0, abs(self.value), abs(self.other)]
        return tolerance(self.scores.model) * max(sizes)

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

    def show(self) -> None:
        """The graph of the edges that are kept by now; parts without any have no kind yet."""
        edges = self.led()
        names = {name for _, *ends in edges for name in ends} | {"tokens", "answer"}
        self._emit(edges, [part if part.name in names else None for part in self.scores.parts])

    def close(self) -> None:
        """Leave off the parts that no edge reaches, and the room for edges that none took."""
        edges = self.led()
        names = {name for _, *ends in edges for name in ends} | {"tokens", "answer"}
        parts = [part for part in self.scores.parts if part.name in names]
        labels = [part.name for part in parts]
        labels += [name for name in self.parts if name not in names]
        found = np.array(labels, dtype=object)
        self.job.note(passes=self.scores.passes + 2, edges_scored=len(self.all))
        self.job.label({"node": (("node",), found), "words": (("node",), found)})
        self._emit(edges, [*parts, *[None] * (len(labels) - len(parts))])
        self.job.shorten("node", len(parts))
        self.job.shorten("link", len(edges))

    def _emit(self, edges: Sequence[Scored], parts: Sequence[Part | None]) -> None:
        """Hand on nodes at their places, and links from the strongest down, as far as they go."""
        place = {part.name: i for i, part in enumerate(parts) if part}
        links = Links(
            np.array([place[sender] for _, sender, _ in edges], dtype=np.int64),
            np.array([place[receiver] for *_, receiver in edges], dtype=np.int64),
            np.array([score for score, *_ in edges]) / self.gap,
            len(parts),
        )
        answers = np.zeros(len(parts))
        answers[place["answer"]] = 1
        effects = [self.effects.get((sender, receiver), NONE) for _, sender, receiver in edges]
        found = {
            "source": links.source,
            "target": links.target,
            "weight": links.weight,
            "link_influence": link_influence(links, answers),
            "link_effect": np.array(effects),
        }
        nodes = {**self._nodes(parts), **influence_arrays(node_influence(links, answers))}
        self.job.emit({}, {**nodes, **{name: self._whole(name, a) for name, a in found.items()}})

    def _whole(self, name: str, values: np.ndarray) -> np.ndarray:
        """An array over all links that there is room for."""
        found = np.full(self.most, VARIABLES[name].fill, dtype=VARIABLES[name].dtype)
        found[: len(values)] = values
        return found

    def _nodes(self, parts: Sequence[Part | None]) -> dict[str, np.ndarray]:
        fill = {name: VARIABLES[name].fill for name in _NODE}
        found = [
            dict(zip(_NODE, (PART, part.layer, _column(part), part.number), strict=True))
            if part
            else fill
            for part in parts
        ]
        return {
            name: np.array([one[name] for one in found]).astype(VARIABLES[name].dtype)
            for name in _NODE
        }


_NODE = ("kind", "node_layer", "node_position", "feature")


def _strength(edge: Scored) -> float:
    return -abs(edge[0])


def _column(part: Part) -> int:
    """Where a part is drawn: heads on the left, MLPs on the right, the ends between them."""
    return 2 if part.is_mlp else 0 if part.sends and part.layer >= 0 else 1
