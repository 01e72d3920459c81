"""How much can flow from a position back to each token, through the layers' attention."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

UNIT = 2**30
"""Capacities are whole numbers of this part: the flow is exact to 1e-9, and nothing is lost."""


@dataclass
class LayeredFlow:
    """A network of layers of positions, which grows from the tokens upwards.

    An edge runs from position i above a layer to position j below it and can carry the share of
    i that the layer takes from j. Maximum flow is Dinic's (1970), by SciPy.

    Attributes
    ----------
    imbalance
        The most that any node in between was found to keep or to add, in shares; whole numbers
        make it 0.
    """

    positions: int
    imbalance: float = 0.0
    _edges: list[np.ndarray] = field(default_factory=list)

    def add(self, share: np.ndarray) -> None:
        """Put a layer on top: shares ``[position above, position below]``, each from 0 to 1."""
        self._edges.append(np.rint(share * UNIT).astype(np.int32))

    def from_top(self, target: int) -> np.ndarray:
        """The most that can flow from a position at the top to each token: ``[position]``."""
        layers, n = len(self._edges), self.positions
        above, below, capacity = [], [], []
        for layer, share in enumerate(self._edges):
            i, j = np.nonzero(share)
            above.append((layer + 1) * n + i)
            below.append(layer * n + j)
            capacity.append(share[i, j])
        size = (layers + 1) * n
        graph = csr_array(
            (np.concatenate(capacity), (np.concatenate(above), np.concatenate(below))),
            shape=(size, size),
        )
        graph.indptr, graph.indices = graph.indptr.astype(np.int32), graph.indices.astype(np.int32)
        return np.array([self._flow(graph, layers * n + target, sink) for sink in range(n)])

    def _flow(self, graph: csr_array, source: int, sink: int) -> float:
        found = maximum_flow(graph, source, sink)
        kept = np.asarray(found.flow.sum(axis=1)).ravel().astype(np.int64)
        kept[source] -= found.flow_value
        kept[sink] += found.flow_value
        self.imbalance = max(self.imbalance, float(np.abs(kept).max()) / UNIT)
        return float(found.flow_value) / UNIT
