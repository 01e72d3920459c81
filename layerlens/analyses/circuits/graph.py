"""An attribution graph as a labelled result: what its nodes are, and what links them.

Nodes lie along the axis ``node``, links along ``link``; a link has a source and a target that are
entries of ``node``. Whatever makes a graph (an analysis, a file) fills these arrays, and the graph
view, its figure and the files are drawn and written from them alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.circuits.influence import (
    Links,
    cumulative,
    link_influence,
    node_influence,
)
from layerlens.analyses.contract.parts import Parts, Variable
from layerlens.result.checks import Check

if TYPE_CHECKING:
    import xarray as xr

KINDS = ("token", "feature", "error", "output", "part", "coordinate")
"""What a node is; the array ``kind`` counts in this order."""

TOKEN, FEATURE, ERROR, OUTPUT, PART, COORDINATE = range(len(KINDS))

VARIABLES = {
    "kind": Variable(("node",), "int8", "1", f"kind of node: {', '.join(KINDS)}"),
    "node_layer": Variable(
        ("node",), "int16", "1", "layer; -1 for tokens, the number of layers for outputs", -2
    ),
    "node_position": Variable(("node",), "int32", "1", "position in the text"),
    "feature": Variable(("node",), "int32", "1", "number of the feature, or token id"),
    "activation": Variable(("node",), "float32", "1", "activation of the feature"),
    "probability": Variable(("node",), "float32", "1", "probability of the output"),
    "influence": Variable(
        ("node",), "float32", "1", "share of the answers that runs through the node"
    ),
    "cumulative_influence": Variable(
        ("node",), "float32", "1", "influence of this node and of all stronger ones, of the whole"
    ),
    "source": Variable(("link",), "int32", "1", "node that a link leaves"),
    "target": Variable(("link",), "int32", "1", "node that a link enters"),
    "weight": Variable(
        ("link",), "float32", "1", "what the source adds to the target", signed=True
    ),
    "link_influence": Variable(
        ("link",), "float32", "1", "share of the answers that runs through the link"
    ),
}
"""The arrays of a graph; ``activation`` and ``probability`` are NaN where a node has none."""


WORDS = {
    "question": "Which features lead from the tokens to the answer, and over which links?",
    "lead": "Tokens below, answers above; a circle is a feature of a layer, read at its token, and "
    "a diamond what the features of that layer miss. Blue links add to their target, red ones take "
    "away; choose a node to see what enters and what leaves it.",
    "source": "Ameisen et al. (2025), Circuit Tracing: Revealing Computational Graphs in Language "
    "Models; Dunefsky, Chlenski, Nanda (2024), Transcoders Find Interpretable LLM Feature "
    "Circuits, arXiv:2406.11944",
}
"""What every graph says of itself."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of a graph: parallel arrays, and what each is called.

    Parameters
    ----------
    kind, layer, position, feature
        Whole numbers [nodes], as `VARIABLES` says.
    activation, probability
        float [nodes], NaN where a node has none.
    ids, words
        A unique name of each, and words for it: a label that someone gave it, or its token.
    """

    kind: np.ndarray
    layer: np.ndarray
    position: np.ndarray
    feature: np.ndarray
    activation: np.ndarray
    probability: np.ndarray
    ids: Sequence[str]
    words: Sequence[str]

    @property
    def answers(self) -> np.ndarray:
        """The weight of each node as an answer: an output's probability, else 0 (float64)."""
        given = np.nan_to_num(self.probability.astype(np.float64))
        return np.where(self.kind == OUTPUT, given, 0.0)

    def coords(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Coordinates of the axis ``node``."""
        return {
            "node": (("node",), np.array(self.ids, dtype=object)),
            "words": (("node",), np.array(self.words, dtype=object)),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Those of `VARIABLES` that a node has by itself, in their dtypes."""
        own = {
            "kind": self.kind,
            "node_layer": self.layer,
            "node_position": self.position,
            "feature": self.feature,
            "activation": self.activation,
            "probability": self.probability,
        }
        return {name: array.astype(VARIABLES[name].dtype) for name, array in own.items()}


def link_arrays(links: Links, answers: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of `VARIABLES` along ``link``."""
    found = {
        "source": links.source,
        "target": links.target,
        "weight": links.weight,
        "link_influence": link_influence(links, answers),
    }
    return {name: array.astype(VARIABLES[name].dtype) for name, array in found.items()}


def influence_arrays(influence: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each node carries, and cumulated from the strongest on."""
    found = {"influence": influence, "cumulative_influence": cumulative(influence)}
    return {name: array.astype(VARIABLES[name].dtype) for name, array in found.items()}


def links_of(data: xr.Dataset) -> Links:
    """Return the links of a stored graph."""
    source, target = (data[name].values.astype(np.int64) for name in ("source", "target"))
    return Links(source, target, data["weight"].values.astype(np.float64), data.sizes["node"])


def nodes_of(data: xr.Dataset) -> Nodes:
    """Return the nodes of a stored graph."""
    ids, words = (data[name].values.tolist() for name in ("node", "words"))
    return Nodes(
        kind=data["kind"].values,
        layer=data["node_layer"].values,
        position=data["node_position"].values,
        feature=data["feature"].values,
        activation=data["activation"].values,
        probability=data["probability"].values,
        ids=ids,
        words=words,
    )


def graph_dataset(
    nodes: Nodes,
    links: Links,
    *,
    text: str,
    tokens: Sequence[str],
    model: str = "",
    notes: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> tuple[xr.Dataset, list[Check]]:
    """Return a graph that no analysis of ours made as the data of a result, and its check.

    Parameters
    ----------
    nodes, links
        The graph.
    text, tokens
        The prompt, and its tokens as they are shown.
    model
        What it was made with.
    notes, options
        What is remarked, and what it was made with.
    """
    influence = node_influence(links, nodes.answers)
    arrays = {
        **nodes.arrays(),
        **influence_arrays(influence),
        **link_arrays(links, nodes.answers),
    }
    parts = Parts(
        VARIABLES,
        {"node": len(nodes.ids), "link": len(links.weight)},
        nodes.coords(),
        batched=False,
    )
    parts.put({}, arrays)
    outputs = nodes.layer[nodes.kind == OUTPUT]
    ids = np.full(len(tokens), -1)
    for place in np.flatnonzero(nodes.kind == TOKEN):
        if nodes.position[place] < len(ids):
            ids[nodes.position[place]] = nodes.feature[place]
    attributes = {
        **WORDS,
        "view": "graph",
        "model": model,
        "n_layers": int(outputs[0] if len(outputs) else nodes.layer.max(initial=-1) + 1),
        "inputs": '["text"]',
        "text": text,
        "text_text": text,
        "text_tokens": json.dumps(list(tokens), ensure_ascii=False),
        "text_ids": json.dumps(ids.tolist()),
        "notes": json.dumps(
            [*notes, error_words(error_share(influence, links, nodes))], ensure_ascii=False
        ),
        "options": json.dumps(dict(options or {})),
        "variables": json.dumps(list(VARIABLES)),
        "complete": 1,
    }
    data: xr.Dataset = parts.dataset(attributes)
    return data, [flow_check(influence, links, nodes)]


def flow_check(influence: np.ndarray, links: Links, nodes: Nodes) -> Check:
    """Check that what the answers are worth arrives whole at the nodes that nothing enters."""
    entered = np.bincount(links.target, np.abs(links.weight), links.nodes) > 0
    worth = nodes.answers[entered].sum()
    error = abs(influence[~entered].sum() - worth)
    limit = 1e-6 * max(1.0, worth)
    return Check(
        "flow",
        float(error),
        limit,
        bool(error <= limit),
        "influence of the nodes that nothing enters, together, against the probability of the "
        "outputs",
    )


def error_share(influence: np.ndarray, links: Links, nodes: Nodes) -> float:
    """Return the share of the answers that comes in as errors: what features do not explain."""
    entered = np.bincount(links.target, np.abs(links.weight), links.nodes) > 0
    whole = influence[~entered].sum()
    return float(influence[nodes.kind == ERROR].sum() / whole) if whole > 0 else 0.0


def error_words(share: float, of: str = "this graph") -> str:
    """Say how much of the answers comes in as errors."""
    return (
        f"Of what enters {of}, {share:.0%} are errors: what the transcoders do not "
        "reproduce, whose causes the graph does not show."
    )
