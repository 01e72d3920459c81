"""Edge attribution: what a change of one part, carried to one other part alone, does to a metric.

The change of a sender's output between two texts, times the derivative of the metric by the input
of a receiver, is a first-order estimate of patching the edge between them (Syed, Rager and Conmy
2023). The derivative by what a receiver makes of its input (q, k, v, neurons) comes from one pass
each way of the model as it is; it is carried back to all senders at once through a pass in which
every part's output is held, so that nothing but the stream leads from one part to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.circuits.edge_nodes import Part
from layerlens.analyses.sweeps.straight_way import places
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.gradients import GRADIENT_PASSES, gradients, recorded_pass

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.analyses.tracing.head_edges import Edges
    from layerlens.model.lensmodel import LensModel


class EdgeScores:
    """Estimates of all edges of one pair of texts.

    Parameters
    ----------
    edges
        The two runs; all parts' sites are kept of them, and MLPs are held.
    parts
        Between which edges run.
    metric
        What is measured.
    steps
        How many inputs on the straight way between the two texts' embeddings the derivatives are
        taken at; 1: at the text that is changed.

    Attributes
    ----------
    passes
        Passes used so far.
    """

    def __init__(
        self,
        edges: Edges,
        parts: Sequence[Part],
        metric: Metric,
        steps: int,
        tick: Callable[[], None],
    ) -> None:
        self.edges, self.parts, self.metric, self.tick = edges, parts, metric, tick
        self.model: LensModel = edges.model
        self.last = Site("resid_post", self.model.n_layers - 1)
        self.passes = 0.0
        self._moved = {site: edges.moved(site) for part in parts for site in part.sends}
        self._slopes = self._derivatives(steps)
        self._values, self._nodes = self._held_pass()

    def _derivatives(self, steps: int) -> dict[Site, Tensor]:
        """Derivative of the metric by what each receiver makes, its mean over the way."""
        read = list(dict.fromkeys(s.whole for part in self.parts for s in part.receives))
        tokens = self.edges.base.tokens
        if steps == 1:
            self.passes += GRADIENT_PASSES
            return gradients(self.model, tokens, read, self.metric)[1]
        embed = Site("resid_pre", 0)
        here = tuple(place for place, _ in self.edges.positions)
        own, moved = self.edges.base.trace[embed][0, list(here)], self._moved[embed]
        found: dict[Site, Tensor] = {}
        for share, weight in zip(*(each.tolist() for each in places(steps)), strict=True):
            self.tick()
            change = Change(embed, "set", own + share * moved, here)
            slopes = gradients(self.model, tokens, read, self.metric, [change])[1]
            for site, slope in slopes.items():
                found[site] = weight * slope + found.get(site, 0)
            self.passes += GRADIENT_PASSES
        return found

    def _held_pass(self) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
        """A pass in which every part is held; what is read, and what parts send."""
        sends = list(dict.fromkeys(site.whole for part in self.parts for site in part.sends))
        read = list(dict.fromkeys(s.whole for part in self.parts for s in part.receives))
        states = [Site("resid_pre", layer) for layer in range(1, self.model.n_layers)]
        held = self.edges.held(-1, range(self.edges.length))
        self.passes += 1
        with self.model.running(gradients=True):
            # What was made in inference mode cannot be kept for a backward pass; a copy can.
            self._slopes = {site: slope.clone() for site, slope in self._slopes.items()}
            return recorded_pass(
                self.model,
                self.edges.base.tokens,
                [*sends, *states, self.last],
                [*read, self.last],
                held,
            )

    def entering(self, receiver: Part) -> dict[str, float]:
        """Change of the metric by each edge that enters a part: name of its sender to estimate.

        A backward pass as far as the part reaches down.
        """
        self.tick()
        senders = [part for part in self.parts if part.reaches(receiver)]
        slopes = self._back(receiver)
        return {
            part.name: sum(self._along(site, slopes) for site in part.sends) for part in senders
        }

    def missing(self, receiver: Part) -> tuple[float, float]:
        """By how much the edges that enter a part miss what its whole input does, and that.

        Both are first-order; heads and the answer read the stream itself, which is the sum of what
        was sent.
        """
        site = self.last if receiver.name == "answer" else Site("resid_pre", receiver.layer)
        entering = sum(self.entering(receiver).values())
        whole = self._along(site, self._back(receiver), self._stream(site))
        return abs(whole - entering), abs(whole)

    def _stream(self, site: Site) -> Tensor:
        """How far the stream is from its value in the other text."""
        here, there = (list(each) for each in zip(*self.edges.positions, strict=True))
        if site == self.last:
            return self.edges.source.last[there] - self.edges.base.last[here]
        return self.edges.source.trace[site][0, there] - self.edges.base.trace[site][0, here]

    def _back(self, receiver: Part) -> Mapping[Site, Tensor]:
        """Derivative by what parts send, through this receiver alone."""
        with self.model.running(gradients=True):
            number = self._number(receiver)
            found = torch.autograd.grad(
                number,
                list(self._nodes.values()),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        return {site: slope[0] for site, slope in zip(self._nodes, found, strict=True)}

    def _number(self, receiver: Part) -> Tensor:
        if receiver.name == "answer":
            return self.metric(self._values[self.last][:, self.edges.base.at]).sum()
        parts = []
        for site in receiver.receives:
            value, slope = self._values[site.whole][0], self._slopes[site.whole]
            if site.head is not None:
                value, slope = value[:, site.head], slope[:, site.head]
            parts.append((value * slope).sum())
        return torch.stack(parts).sum()

    def _along(
        self, site: Site, slopes: Mapping[Site, Tensor], moved: Tensor | None = None
    ) -> float:
        """The change at a site times the derivative there."""
        here = [place for place, _ in self.edges.positions]
        slope = slopes[site.whole][here]
        slope = slope if site.head is None else slope[:, site.head]
        moved = self._moved[site] if moved is None else moved
        return float((moved.to(slope).double() * slope.double()).sum())


def cut(edges: Edges, metric: Metric, sender: Part, receiver: Part) -> float:
    """The metric with one edge really patched, by two whole passes (one to the answer)."""
    alone = replace(edges, receivers=receiver.receives)
    state = alone.plainly(*sender.sends)
    return float(metric(state.unsqueeze(0))[0])
