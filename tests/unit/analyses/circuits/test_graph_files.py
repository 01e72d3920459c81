"""Attribution graphs in circuit-tracer's JSON: read, refused, written and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerlens as ll
from layerlens.analyses.circuits.graph import KINDS
from layerlens.errors import InputError

from ..by_hooks import IDS, OTHER, wrapped


def node(name: str, kind: str, at: int, **more: Any) -> dict[str, Any]:
    layer = name.split("_")[0]
    return {"node_id": name, "layer": layer, "ctx_idx": at, "feature_type": kind, "feature": 0,
            "jsNodeId": name, **more}  # fmt: skip


def graph() -> dict[str, Any]:
    """Two blocks (outputs are of "layer" 3); an old error has the name of a feature."""
    return {
        "metadata": {"slug": "s", "scan": "tiny", "transcoder_list": [], "node_threshold": 0.8,
                     "prompt": "a b", "prompt_tokens": ["a", " b"]},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "",
                    "sg_pos": ""},
        "nodes": [
            node("E_5_0", "embedding", 0, influence=0.9),
            node("E_6_1", "embedding", 1, influence=1.0),
            node("0_7_1", "cross layer transcoder", 1, influence=0.5, activation=2.5, clerp="a b"),
            node("0_7_1", "mlp reconstruction error", 1, influence=0.7),
            node("3_9_1", "logit", 1, token_prob=0.6, is_target_logit=True,
                 clerp='Output " c" (p=0.600)'),
        ],
        "links": [
            {"source": "E_5_0", "target": "0_7_1", "weight": 1.0},
            {"source": "E_6_1", "target": "0_7_1", "weight": -3.0},
            {"source": "0_7_1", "target": "3_9_1", "weight": 2.0},
        ],
    }  # fmt: skip


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(content))
    return path


def test_a_graph_is_read(tmp_path: Path) -> None:
    result = ll.import_graph(written(tmp_path, graph()))
    data = result.data
    assert [KINDS[kind] for kind in data["kind"].values] == [
        *("token", "token", "feature", "error", "output"),
    ]
    assert data["node_layer"].values.tolist() == [-1, -1, 0, 0, 2]
    assert data.attrs["n_layers"] == 2
    assert data["feature"].values.tolist() == [5, 6, 7, -1, 9]
    assert data["words"].values.tolist() == ["a", " b", "a b", "", " c"]
    assert data["influence"].values == pytest.approx([0.15, 0.45, 0.6, 0.0, 0.0])
    # what the file says, where it says anything
    assert data["cumulative_influence"].values[:4] == pytest.approx([0.9, 1.0, 0.5, 0.7])
    assert result.checks.ok
    notes = json.loads(data.attrs["notes"])
    assert "1 links leave a name that a feature and an error share" in notes[0]


def test_it_is_written_and_read_again(tmp_path: Path) -> None:
    first = ll.import_graph(written(tmp_path, graph()))
    path = ll.export_graph(first, tmp_path / "again.json")
    again = ll.import_graph(path)
    for name in first.data.data_vars:
        np.testing.assert_allclose(again.data[name].values, first.data[name].values, 1e-6)
    told = json.loads(path.read_text())
    assert told["nodes"][3]["node_id"] == "0_-1_1"
    # Cantor's number of layer 0 and index 7, as circuit-tracer packs it
    assert told["nodes"][2]["feature"] == 35
    assert told["nodes"][4]["layer"] == "3"
    assert told["nodes"][4]["clerp"] == 'Output " c" (p=0.600)'
    assert told["links"] == graph()["links"]


def test_it_survives_a_file_of_ours(tmp_path: Path) -> None:
    first = ll.import_graph(written(tmp_path, graph()))
    assert ll.open(first.save(tmp_path / "graph.nc")).identical(first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g.pop("links"), "lacks links"),
        (lambda g: g["nodes"].clear(), "lacks a node"),
        (lambda g: g["nodes"][2].update(feature_type="attention"), "nodes of kind attention"),
        (lambda g: g["nodes"][2].pop("ctx_idx"), "lacks its kind, layer, position or index"),
        (lambda g: g["links"][0].update(source="nobody"), "nobody"),
    ],
)
def test_what_is_no_graph_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    content = graph()
    change(content)
    with pytest.raises(InputError, match=words):
        ll.import_graph(written(tmp_path, content))


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a pickle"):
        ll.import_graph(tmp_path / "graph.pt")


@pytest.fixture(scope="module")
def parts() -> ll.Result:
    asked = {"steps": 1, "verify": 1, "most_edges": 12, "sizes": [], "answer": 7, "wrong": 11}
    return ll.edge_attribution(wrapped("gpt2"), IDS, OTHER, **asked)


def test_a_graph_of_parts_is_written_and_read_again(tmp_path: Path, parts: ll.Result) -> None:
    path = ll.export_graph(parts, tmp_path / "parts.json")
    again = ll.import_graph(path)
    assert set(again.data.data_vars) == set(parts.data.data_vars) - {"estimate_spearman"}
    for name in (*again.data.data_vars, "node", "words"):
        assert again.data[name].equals(parts.data[name]), name
        assert again.data[name].attrs == parts.data[name].attrs
    same = ("analysis", "question", "metric_words", "clean_ids", "notes", "n_layers", "checks")
    assert all(again.data.attrs[name] == parts.data.attrs[name] for name in same)
    assert ll.GraphView.from_result(again, node="answer").node == "answer"


def test_networkx_opens_a_graph_of_parts(tmp_path: Path, parts: ll.Result) -> None:
    import networkx as nx

    told = json.loads(ll.export_graph(parts, tmp_path / "parts.json").read_text())
    found = nx.node_link_graph(told, edges="edges")
    names = parts.data.node.values
    first = names[parts.data.source.values[0]], names[parts.data.target.values[0]]
    assert found.is_directed()
    assert found.edges[first]["weight"] == pytest.approx(float(parts.data.weight[0]))
    assert nx.has_path(found, first[0], "answer")
    assert found.graph["format"] == "layerlens.parts"


def test_a_broken_graph_of_parts_is_refused(tmp_path: Path, parts: ll.Result) -> None:
    told = json.loads(ll.export_graph(parts, tmp_path / "parts.json").read_text())
    for change in (
        {"edges": [{**told["edges"][0], "target": "head 99.0"}]},
        {"nodes": [{"id": "tokens"}]},
        {"nodes": [*told["nodes"], told["nodes"][0]]},
    ):
        with pytest.raises(InputError, match=r"graph of parts|two of one name"):
            ll.import_graph(written(tmp_path, {**told, **change}))
