"""How much of an answer each node and each link of an attribution graph carries.

A graph is made of nodes, and of links from a source to a target whose weight is what the source
adds to the target. What enters a target is shared out by the sizes of the weights; followed
backwards from the answers along every path, the shares are the *influence* of a node. That of all
nodes that nothing enters (tokens and errors) is together that of the answers, where each node on
the way has a link that enters it.

Sources: Ameisen et al. (2025), "Circuit Tracing: Revealing Computational Graphs in Language
Models"; Lindsey et al. (2025), "On the Biology of a Large Language Model". Thresholds and the order
of pruning are those of the circuit-tracer package (Hanna, Piotrowski, Lindsey, Ameisen, 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from layerlens.errors import InputError

NODE_THRESHOLD = 0.8
LINK_THRESHOLD = 0.98

Floats = NDArray[np.float64]
Wholes = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Links:
    """The links of a graph of `nodes` nodes: parallel arrays of one length.

    Parameters
    ----------
    source, target
        Nodes, counted from 0 (int64).
    weight
        What the source adds to the target (float64), in the target's own unit.
    nodes
        How many nodes there are.
    """

    source: Wholes
    target: Wholes
    weight: Floats
    nodes: int

    def kept(self, mask: Bools) -> Links:
        """The links of a mask; the nodes stay."""
        return Links(self.source[mask], self.target[mask], self.weight[mask], self.nodes)

    def shares(self) -> Floats:
        """The share that each link has of what enters its target, by size: 0 to 1."""
        sizes = np.abs(self.weight)
        entering = np.bincount(self.target, sizes, self.nodes)[self.target]
        return np.divide(sizes, entering, out=np.zeros_like(sizes), where=entering > 0)


@dataclass(frozen=True)
class Pruned:
    """Which nodes and links are left, and the cumulative influence of every node."""

    nodes: Bools
    links: Bools
    cumulative: Floats


def node_influence(links: Links, answers: Floats) -> Floats:
    """Return what each node carries of the answers, over all paths.

    Parameters
    ----------
    links
        Of a graph without cycles.
    answers
        The weight of each node as an answer (float64 [nodes]): the probability of an output, 0
        for what is none.

    Returns
    -------
    ndarray
        float64 [nodes]; an answer that leads nowhere has 0.

    Raises
    ------
    InputError
        The graph has a cycle, so that paths have no end.

    Examples
    --------
    >>> import numpy as np
    >>> links = Links(np.array([0, 1]), np.array([2, 2]), np.array([3.0, -1.0]), 3)
    >>> node_influence(links, np.array([0, 0, 0.8])).round(2)
    array([0.6, 0.2, 0. ])
    """
    step = csr_array((links.shares(), (links.source, links.target)), shape=(links.nodes,) * 2)
    influence = np.zeros(links.nodes)
    arriving = np.asarray(answers, dtype=np.float64)
    for _ in range(links.nodes + 1):
        arriving = step @ arriving
        if not arriving.any():
            return influence
        influence += arriving
    raise InputError("The links of this graph go in a circle; an attribution graph has none.")


def link_influence(links: Links, answers: Floats) -> Floats:
    """Return what each link carries of the answers, over all paths through it (float64)."""
    return links.shares() * (node_influence(links, answers) + answers)[links.target]


def cumulative(scores: Floats) -> Floats:
    """Return for each score the share of the whole down to it, from the largest on.

    Examples
    --------
    >>> import numpy as np
    >>> cumulative(np.array([0.2, 0.6, 0.2])).round(2)
    array([0.8, 0.6, 1. ])
    """
    order = np.argsort(-scores, kind="stable")
    down = np.cumsum(scores[order])
    found = np.zeros_like(scores)
    found[order] = down / down[-1] if scores.size and down[-1] > 0 else 1.0
    return found


def pruned(
    links: Links,
    answers: Floats,
    *,
    always: Bools,
    inner: Bools,
    node_threshold: float = NODE_THRESHOLD,
    link_threshold: float = LINK_THRESHOLD,
) -> Pruned:
    """Return what is left of a graph when the weakest nodes and links are taken away.

    Nodes that together carry `node_threshold` of the influence stay, then the links among them
    that carry `link_threshold`; then whatever leads nowhere, and an inner node that nothing
    enters, goes until nothing more does.

    Parameters
    ----------
    links, answers
        As in `node_influence`.
    always
        Nodes that are never taken away: tokens and outputs.
    inner
        Nodes that something has to enter: features, but not tokens and errors.
    node_threshold, link_threshold
        Shares, 0 to 1.

    Returns
    -------
    Pruned

    Raises
    ------
    InputError
        A threshold is not between 0 and 1, or the graph has a cycle.
    """
    for name, value in (("node_threshold", node_threshold), ("link_threshold", link_threshold)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} is {value}; it is a share between 0 and 1.")
    influence = node_influence(links, answers)
    nodes = always | (influence >= _least(influence, node_threshold))
    among = nodes[links.source] & nodes[links.target]
    carried = np.zeros(len(links.weight))
    carried[among] = link_influence(links.kept(among), answers)
    left = among & (carried >= _least(carried, link_threshold))
    while True:
        leads = np.bincount(links.source[left], minlength=links.nodes) > 0
        entered = np.bincount(links.target[left], minlength=links.nodes) > 0
        kept = nodes & (always | (leads & (entered | ~inner)))
        if (kept == nodes).all():
            return Pruned(nodes, left, cumulative(influence))
        nodes = kept
        left &= nodes[links.source] & nodes[links.target]


def _least(scores: Floats, threshold: float) -> float:
    """Return the score down to which the largest together make the threshold."""
    if not scores.size or not scores.any():
        return 0.0
    falling = -np.sort(-scores)
    shares = np.cumsum(falling) / falling.sum()
    last = min(int(np.searchsorted(shares, threshold)), len(falling) - 1)
    return float(falling[last])
