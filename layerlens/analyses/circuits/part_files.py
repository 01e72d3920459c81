"""Graphs of a model's parts as JSON: node-link data, as networkx writes and reads it.

circuit-tracer's format has features, errors, tokens and outputs, and no parts, so these graphs are
written as ``networkx.node_link_data`` does (its default keys), and ``networkx.node_link_graph``
opens them::

    {"directed": true, "multigraph": false,
     "graph": {"format": "layerlens.parts", "version": 1, "model": ..., "metric": ..., ...},
     "nodes": [{"id": "head 3.5", "layer": 3, "head": 5, "column": 0, "influence": 0.2,
                "cumulative_influence": 0.7}, ...],
     "edges": [{"source": "tokens", "target": "head 3.5", "weight": 0.4, "influence": 0.1,
                "effect": 0.38}, ...]}

``layer`` is -1 of the tokens and the number of layers of the answer; ``head`` is the first head of
a part and -1 of what has none; ``column`` is where it is drawn (0 heads, 1 tokens and answer, 2
MLPs). ``weight`` is what was estimated, ``effect`` what patching that edge alone changed, and null
where that was not tried; both are shares of the difference between the two texts. ``graph`` holds
the attributes of the result: texts and their tokens, the metric, notes and checks. Files of a later
version will only have more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.circuits.edge_graph import VARIABLES
from layerlens.analyses.circuits.graph import PART
from layerlens.analyses.contract.parts import Parts
from layerlens.errors import InputError
from layerlens.result.checks import Checks
from layerlens.result.result import Result

if TYPE_CHECKING:
    import xarray as xr

FORMAT, VERSION = "layerlens.parts", 1
_NODE = {"node_layer": "layer", "feature": "head", "node_position": "column",
         "influence": "influence", "cumulative_influence": "cumulative_influence"}  # fmt: skip
_LINK = {"weight": "weight", "link_influence": "influence", "link_effect": "effect"}
_OWN = ("code", "checks", "variables", "complete", "view", "analysis")
"""Attributes that are made anew, or kept apart."""


def told_of_parts(data: xr.Dataset) -> dict[str, Any]:
    """Return a graph of parts as what its file says."""
    names = [str(name) for name in data["node"].values.tolist()]
    ends = (data[name].values.tolist() for name in ("source", "target"))
    attrs = {name: _plain(value) for name, value in data.attrs.items() if name not in _OWN}
    checks = json.loads(data.attrs.get("checks", "[]"))
    return {
        "directed": True,
        "multigraph": False,
        "graph": {"format": FORMAT, "version": VERSION, **attrs, "checks": checks},
        "nodes": [{"id": name, **row} for name, row in zip(names, _rows(data, _NODE), strict=True)],
        "edges": [
            {"source": names[source], "target": names[target], **row}
            for source, target, row in zip(*ends, _rows(data, _LINK), strict=True)
        ],
    }


def is_of_parts(told: Any) -> bool:
    """Whether JSON is a graph of parts, as `told_of_parts` makes it."""
    return (
        isinstance(told, dict)
        and isinstance(told.get("graph"), dict)
        and told["graph"].get("format") == FORMAT
    )


def parts_result(place: Path, told: Mapping[str, Any], code: str) -> Result:
    """Return the graph of a file.

    Raises
    ------
    InputError
        A node or a link lacks something, or a link names no node.
    """
    try:
        nodes: Sequence[Mapping[str, Any]] = told["nodes"]
        edges: Sequence[Mapping[str, Any]] = told["edges"]
        names = [str(node["id"]) for node in nodes]
        place_of = {name: i for i, name in enumerate(names)}
        found = {
            **_arrays(nodes, _NODE),
            **_arrays(edges, _LINK),
            "kind": np.full(len(names), PART, dtype=np.int8),
            **{
                end: np.array([place_of[str(edge[end])] for edge in edges], dtype=np.int32)
                for end in ("source", "target")
            },
        }
        checks = Checks.from_json(json.dumps(told["graph"].get("checks", [])))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"A node or link of '{place}' lacks {error}, or is not as it should be: give a graph "
            "of parts that ll.export_graph wrote."
        ) from error
    if len(place_of) < len(names) or not names:
        raise InputError(f"'{place}' has no nodes, or two of one name: each needs its own.")
    kept = {name: VARIABLES[name] for name in found}
    labels = np.array(names, dtype=object)
    coords = {"node": (("node",), labels), "words": (("node",), labels)}
    parts = Parts(kept, {"node": len(names), "link": len(edges)}, coords, batched=False)
    parts.put({}, found)
    attrs = {name: value for name, value in told["graph"].items()
             if name not in ("format", "version", "checks")
             and isinstance(value, str | int | float)}  # fmt: skip
    about = {**attrs, "view": "graph", "variables": json.dumps(list(kept)), "complete": 1}
    return Result("edge_attribution", parts.dataset(about), checks, code)


def _rows(data: xr.Dataset, named: Mapping[str, str]) -> list[dict[str, Any]]:
    columns = [data[name].values.tolist() for name in named]
    return [
        {key: _plain(value) for key, value in zip(named.values(), row, strict=True)}
        for row in zip(*columns, strict=True)
    ]


def _arrays(rows: Sequence[Mapping[str, Any]], named: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {
        name: np.array(
            [math.nan if row[key] is None else row[key] for row in rows],
            dtype=VARIABLES[name].dtype,
        )
        for name, key in named.items()
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it; NaN is null."""
    own = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(own, float) and not math.isfinite(own) else own
