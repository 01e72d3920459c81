"""Attribution graphs as circuit-tracer and Neuronpedia keep them: one JSON file, read and written.

What is easily misread in these files: ``influence`` is the share of a node *and of all stronger
ones*; ``feature`` is a number that packs layer and index in several ways, so the index is taken
from ``node_id``; the layer of an output is one more than there are blocks; and in older files an
error may have the name of a feature of block 0.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layerlens.analyses.circuits.graph import (
    ERROR,
    FEATURE,
    OUTPUT,
    TOKEN,
    Nodes,
    graph_dataset,
    nodes_of,
)
from layerlens.analyses.circuits.influence import Links
from layerlens.analyses.circuits.part_files import is_of_parts, parts_result, told_of_parts
from layerlens.errors import InputError, ResultError
from layerlens.result.files import as_path, checked_path, read_bytes, write_bytes
from layerlens.result.result import Result

_TYPES = {
    "embedding": TOKEN,
    "cross layer transcoder": FEATURE,
    "mlp reconstruction error": ERROR,
    "logit": OUTPUT,
}
_WORDS = {kind: name for name, kind in _TYPES.items()}
_EMBEDDING = "E"
_OUTPUT_LABEL = re.compile(r'Output "(.*)" \(p=[\d.]+\)', re.DOTALL)


def import_graph(path: str | os.PathLike[str]) -> Result:
    """Open a graph that circuit-tracer or `export_graph` wrote, or that Neuronpedia serves.

    Parameters
    ----------
    path
        The JSON file. The ``.pt`` file of the same graph is a pickle, which may run anything, and
        is not opened.

    Returns
    -------
    Result
        Of ``feature_circuit``, or of ``edge_attribution`` where it is of parts, shown by the graph
        view; `Result.data` is described in `layerlens.analyses.circuits.graph`. Its ``influence``
        is that within the graph of the file, its ``cumulative_influence`` what the file says.

    Raises
    ------
    InputError
        It is no attribution graph, or has nodes of a kind that is not known.
    ResultError
        The file cannot be read.

    Examples
    --------
    >>> import layerlens as ll
    >>> nodes = [
    ...     {"node_id": "E_5_0", "feature": 0, "layer": "E", "ctx_idx": 0,
    ...      "feature_type": "embedding"},
    ...     {"node_id": "3_9_0", "feature": 9, "layer": "3", "ctx_idx": 0,
    ...      "feature_type": "logit", "token_prob": 0.8},
    ... ]
    >>> graph = {"metadata": {"prompt": "a", "prompt_tokens": ["a"]}, "nodes": nodes,
    ...          "links": [{"source": "E_5_0", "target": "3_9_0", "weight": 1.5}]}
    >>> import json, pathlib
    >>> _ = pathlib.Path("graph.json").write_text(json.dumps(graph))
    >>> ll.import_graph("graph.json").data["influence"].values.round(2)
    array([0.8, 0. ], dtype=float32)
    """
    place = as_path(path)
    code = f"ll.import_graph({str(path)!r})"
    told = _told(place)
    if is_of_parts(told):
        return parts_result(place, told, code)
    rows: Sequence[Mapping[str, Any]] = told["nodes"]
    tokens = [str(token) for token in told["metadata"].get("prompt_tokens", [])]
    nodes = _nodes(place, rows, tokens)
    links, doubtful = _links(place, told["links"], nodes)
    notes = [f"{doubtful} links leave a name that a feature and an error share; they are drawn "
             "from the feature."] if doubtful else []  # fmt: skip
    about = told["metadata"]
    data, checks = graph_dataset(
        nodes,
        links,
        text=str(about.get("prompt", "".join(tokens))),
        tokens=tokens,
        model=str(about.get("scan", "")),
        notes=notes,
        options={"node_threshold": about.get("node_threshold")},
    )
    said = [row.get("influence") for row in rows]
    if any(value is not None for value in said):
        own = data["cumulative_influence"]
        given = [math.nan if value is None else float(value) for value in said]
        known = np.where(np.isnan(given), own.values, given).astype(own.dtype)
        data["cumulative_influence"] = own.copy(data=known)
    return Result("feature_circuit", data, checks, code)


def export_graph(
    graph: Result, path: str | os.PathLike[str], *, scan: str = "", slug: str = ""
) -> Path:
    """Write a graph as JSON: of features as circuit-tracer's own page and Neuronpedia open it.

    A graph of a model's parts (``ll.edge_attribution``) is written as node-link data, which
    ``networkx.node_link_graph`` opens too; `layerlens.analyses.circuits.part_files` says what it
    holds. Only the graph itself is written: curves beside it are kept by `Result.save`.

    Parameters
    ----------
    graph
        Of ``ll.feature_circuit``, ``ll.edge_attribution`` or `import_graph`.
    path
        Of the file; ends in ``.json``.
    scan
        The set of transcoders as that page knows it; by default the model's name. Of features.
    slug
        The name of the graph; by default that of the file. Of features.

    Raises
    ------
    ResultError
        It is no graph, or the file could not be written.

    Examples
    --------
    >>> import layerlens as ll
    >>> ll.export_graph(ll.logit_lens(ll.load("toy:induction"), "cat dog"), "graph.json")
    Traceback (most recent call last):
    layerlens.errors.ResultError: A result of logit_lens is no graph of nodes and links; give ...
    """
    data = graph.data
    if not {"node", "link"} <= set(data.dims):
        raise ResultError(
            f"A result of {graph.analysis} is no graph of nodes and links; give one of "
            "feature_circuit or edge_attribution."
        )
    target = checked_path(path, ".json")
    of_features = "activation" in data
    if not of_features and (scan or slug):
        raise ResultError("scan and slug name graphs of features; leave them out of one of parts.")
    told = (
        _told_of_features(graph, scan, slug or target.stem) if of_features else told_of_parts(data)
    )
    return write_bytes(target, json.dumps(told, ensure_ascii=False, indent=1).encode())


def _told_of_features(graph: Result, scan: str, slug: str) -> dict[str, Any]:
    """Return a graph of features as circuit-tracer's file says it."""
    data = graph.data
    nodes = nodes_of(data)
    ids = _ids(nodes, int(data.attrs["n_layers"]))
    attrs = data.attrs
    options = json.loads(attrs.get("options", "{}"))
    return {
        "metadata": {
            "slug": slug,
            "scan": scan or str(attrs.get("model", "")),
            "transcoder_list": [],
            "prompt_tokens": json.loads(attrs.get("text_tokens", "[]")),
            "prompt": str(attrs.get("text", "")),
            "node_threshold": options.get("node_threshold"),
            "schema_version": 1,
        },
        "qParams": {
            "pinnedIds": [],
            "supernodes": [],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": _written(nodes, ids, data["cumulative_influence"].values, data.attrs),
        "links": [
            {"source": ids[source], "target": ids[to], "weight": weight}
            for source, to, weight in zip(
                *(data[name].values.tolist() for name in ("source", "target", "weight")),
                strict=True,
            )
        ],
    }


def _told(place: Path) -> dict[str, Any]:
    if place.suffix == ".pt":
        raise InputError(
            f"'{place}' is a pickle, which may run anything, and is not opened: let circuit-tracer "
            "write the graph's JSON (create_graph_files) and give that."
        )
    try:
        found = json.loads(read_bytes(place))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"'{place}' is no JSON: give a graph that circuit-tracer wrote."
        ) from error
    if is_of_parts(found):
        return dict(found)
    parts = {"metadata": dict, "nodes": list, "links": list}
    lacking = [
        name
        for name, kind in parts.items()
        if not isinstance(found, dict) or not isinstance(found.get(name), kind)
    ]
    if lacking or not found["nodes"]:
        words = " and ".join(lacking) or "a node"
        raise InputError(
            f"'{place}' is no attribution graph, for it lacks {words}: give a JSON file that "
            "circuit-tracer wrote."
        )
    return dict(found)


def _nodes(place: Path, rows: Sequence[Mapping[str, Any]], tokens: Sequence[str]) -> Nodes:
    try:
        types = [str(row["feature_type"]) for row in rows]
        if unknown := sorted(set(types) - set(_TYPES)):
            raise InputError(
                f"'{place}' has nodes of kind {', '.join(unknown)}; known are {', '.join(_TYPES)}."
            )
        kinds = np.array([_TYPES[name] for name in types])
        positions = np.array([int(row["ctx_idx"]) for row in rows])
        layers = np.array([-1 if row["layer"] == _EMBEDDING else int(row["layer"]) for row in rows])
        ids = [str(row["node_id"]) for row in rows]
        features = [
            -1 if kind == ERROR else int(name.split("_")[1])
            for kind, name in zip(kinds, ids, strict=True)
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"A node of '{place}' lacks its kind, layer, position or index ({error}); give a JSON "
            "file that circuit-tracer wrote."
        ) from error
    layers[kinds == OUTPUT] -= 1  # one more than there are blocks
    return Nodes(
        kind=kinds,
        layer=layers,
        position=positions,
        feature=np.array(features),
        activation=np.array([_number(row.get("activation")) for row in rows]),
        probability=np.where(
            kinds == OUTPUT, [_number(row.get("token_prob")) for row in rows], np.nan
        ),
        ids=_apart(ids, kinds),
        words=[
            _called(str(row.get("clerp") or ""), kind, tokens[at] if at < len(tokens) else "")
            for row, kind, at in zip(rows, kinds, positions, strict=True)
        ],
    )


def _apart(ids: Sequence[str], kinds: np.ndarray) -> list[str]:
    """Return names of nodes of which no two are alike."""
    taken = {name for name, kind in zip(ids, kinds, strict=True) if kind != ERROR}
    return [
        f"error_{name}" if kind == ERROR and name in taken else name
        for name, kind in zip(ids, kinds, strict=True)
    ]


def _called(label: str, kind: int, token: str) -> str:
    """Return the words for a node: its label, of an output the token in it, else its token."""
    if kind == OUTPUT and (found := _OUTPUT_LABEL.fullmatch(label)):
        return found.group(1)
    return label or (token if kind == TOKEN else "")


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _links(place: Path, rows: Sequence[Mapping[str, Any]], nodes: Nodes) -> tuple[Links, int]:
    """Return the links, and of how many the source is a guess between two nodes."""
    index = {name: i for i, name in enumerate(nodes.ids)}
    try:
        ends = [(str(row["source"]), str(row["target"]), float(row["weight"])) for row in rows]
        source = np.array([index[name] for name, _, _ in ends], dtype=np.int64)
        target = np.array([index[name] for _, name, _ in ends], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"A link of '{place}' lacks a weight, or one of its nodes ({error}) is not in the file."
        ) from error
    shared = {name.removeprefix("error_") for name in nodes.ids if name.startswith("error_")}
    weight = np.array([weight for _, _, weight in ends], dtype=np.float64)
    return Links(source, target, weight, len(index)), sum(name in shared for name, _, _ in ends)


def _ids(nodes: Nodes, n_layers: int) -> list[str]:
    """Return the names of nodes in the file's own form."""
    layers = np.where(nodes.kind == OUTPUT, n_layers + 1, nodes.layer).tolist()
    names = [_EMBEDDING if kind == TOKEN else str(layer)
             for kind, layer in zip(nodes.kind, layers, strict=True)]  # fmt: skip
    features = np.where(nodes.kind == ERROR, -1, nodes.feature).tolist()
    return [
        f"{name}_{feature}_{position}"
        for name, feature, position in zip(names, features, nodes.position.tolist(), strict=True)
    ]


def _written(
    nodes: Nodes, ids: Sequence[str], influence: np.ndarray, attrs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    best = int(np.argmax(nodes.answers))
    rows = []
    for i, name in enumerate(ids):
        kind = int(nodes.kind[i])
        layer, feature, position = name.split("_")
        activation = float(nodes.activation[i])
        place = {TOKEN: position, FEATURE: "0", ERROR: position, OUTPUT: position}[kind]
        rows.append(
            {
                "node_id": name,
                "feature": _packed(kind, int(nodes.layer[i]), int(feature), int(position)),
                "layer": layer,
                "ctx_idx": int(position),
                "feature_type": _WORDS[kind],
                "token_prob": float(nodes.answers[i]),
                "is_target_logit": kind == OUTPUT and i == best,
                "run_idx": 0,
                "reverse_ctx_idx": 0,
                "jsNodeId": f"{'L' if kind == OUTPUT else layer}_{feature}-{place}",
                "clerp": _label(nodes, i),
                "influence": None if kind == OUTPUT else float(influence[i]),
                "activation": None if math.isnan(activation) else activation,
            }
        )
    return rows


def _label(nodes: Nodes, i: int) -> str:
    if nodes.kind[i] == OUTPUT:
        return f'Output "{nodes.words[i]}" (p={nodes.answers[i]:.3f})'
    return "" if nodes.kind[i] == TOKEN else nodes.words[i]


def _packed(kind: int, layer: int, feature: int, position: int) -> int:
    """Return the number that a file has for a node: Cantor's of layer and index for a feature."""
    if kind == FEATURE:
        return (layer + feature) * (layer + feature + 1) // 2 + feature
    return {TOKEN: position, ERROR: -1, OUTPUT: feature}[kind]
