"""Groups of neurons: by when they fire, by what they read, and how good a grouping is."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from sklearn.cluster import KMeans

Floats = NDArray[np.float64]
Wholes = NDArray[np.int64]

ROUNDS = 10
"""Rounds of balanced k-means, at most."""


def fired(activations: Floats, share: float) -> NDArray[np.bool_]:
    """Where each neuron's magnitude is among the largest of its own: ``[token, neuron]``.

    A neuron that is 0 so often that its limit is 0 fires where it is not 0.
    """
    size = np.abs(activations)
    return np.asarray(size > np.quantile(size, 1 - share, axis=0))


def together(on: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The phi coefficient of each pair of neurons, ``[neuron, neuron]``; 0 for what never changes.

    Examples
    --------
    >>> on = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=bool)
    >>> together(on).round(2).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    centred = on.astype(np.float32) - on.mean(0, dtype=np.float32)
    length = np.sqrt(np.square(centred).sum(0))
    centred /= np.where(length > 0, length, 1)
    return np.asarray(centred.T @ centred)


def nearest(likeness: NDArray[np.float32], neighbours: int) -> coo_array:
    """A sparse graph: each neuron with the few that it goes with most, above 0.

    Symmetric; an edge stands once, its smaller end first.
    """
    count = len(likeness)
    alone = likeness.copy()
    np.fill_diagonal(alone, 0)
    few = min(neighbours, count - 1)
    best = np.argpartition(-alone, few - 1, axis=1)[:, :few]
    rows = np.repeat(np.arange(count), few)
    columns = best.ravel()
    ends = np.sort(np.stack([rows, columns]), axis=0)
    ends = np.unique(ends[:, alone[rows, columns] > 0], axis=1)
    weights = alone[ends[0], ends[1]].astype(np.float64)
    return coo_array((weights, (ends[0], ends[1])), shape=(count, count))


def rewired(graph: coo_array, generator: np.random.Generator) -> coo_array:
    """A random graph in which each neuron has as many edges as before, and the weights are dealt.

    Ends of edges are cut and joined at random; pairs that then are one neuron, or stand twice, are
    dropped (few where the graph is sparse).
    """
    ends = generator.permutation(np.concatenate([graph.row, graph.col]))
    pairs = np.sort(ends.reshape(2, -1), axis=0)
    pairs, place = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1, return_index=True)
    weights = generator.permutation(graph.data)[: len(place)]
    return coo_array((weights, (pairs[0], pairs[1])), shape=graph.shape)


def communities(graph: coo_array, seed: int) -> tuple[Wholes, float]:
    """The modules that Louvain's method finds, the largest first, and their modularity Q.

    Returns
    -------
    labels
        ``[neuron]``; a neuron without edges is a module of its own.
    modularity
        Of the weighted graph, at most 1; NaN without edges.
    """
    network = nx.Graph()
    network.add_nodes_from(range(graph.shape[0]))
    edges = zip(graph.row.tolist(), graph.col.tolist(), graph.data.tolist(), strict=True)
    network.add_weighted_edges_from(edges)
    found = nx.community.louvain_communities(network, seed=seed)
    found = sorted(found, key=lambda one: (-len(one), min(one)))
    labels = np.empty(graph.shape[0], dtype=np.int64)
    for number, one in enumerate(found):
        labels[list(one)] = number
    modularity = nx.community.modularity(network, found) if graph.nnz else np.nan
    return labels, float(modularity)


def balanced(rows: Floats, count: int, seed: int) -> Wholes:
    """Groups of equal sizes of rows that point the same way (balanced k-means): ``[row]``.

    The pairs of a row and a centre are gone through from the most alike; a group that is full
    takes no more.
    """
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    centres = KMeans(count, n_init=1, random_state=seed).fit(rows).cluster_centers_
    labels = np.full(len(rows), -1)
    for _ in range(ROUNDS):
        found = _dealt(rows @ centres.T)
        if np.array_equal(found, labels):
            break
        labels = found
        centres = np.stack([rows[labels == group].mean(0) for group in range(count)])
    return labels


def _dealt(likeness: Floats) -> Wholes:
    """Each row to the group it is most like, of groups that have room left."""
    rows, groups = likeness.shape
    room = [rows // groups + (group < rows % groups) for group in range(groups)]
    labels = [-1] * rows
    for place in np.argsort(-likeness, axis=None).tolist():
        row, group = divmod(place, groups)
        if labels[row] < 0 and room[group] > 0:
            labels[row] = group
            room[group] -= 1
    return np.array(labels)


def between(likeness: NDArray[np.float32], labels: Wholes, kept: Sequence[int]) -> Floats:
    """Mean likeness between modules ``[module, module]``, a neuron with itself aside."""
    found = np.full((len(kept), len(kept)), np.nan)
    for i, one in enumerate(kept):
        for j, other in enumerate(kept):
            part = likeness[np.ix_(labels == one, labels == other)]
            own = len(part) if one == other else 0
            pairs = part.size - own
            whole = part.sum(dtype=np.float64) - (np.trace(part) if own else 0)
            found[i, j] = whole / pairs if pairs else np.nan
    return found
