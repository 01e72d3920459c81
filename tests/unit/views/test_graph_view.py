"""The view of a graph: from a result, frozen, as a figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import layerlens as ll
from layerlens.errors import ResultError
from layerlens.export.pack import unpack
from layerlens.export.twins import traits_of
from layerlens.figures.graph import graph_figure
from layerlens.views import GraphView, view_of


@pytest.fixture
def graph(tmp_path: Path) -> ll.Result:
    nodes = [
        {"node_id": "E_5_0", "layer": "E", "ctx_idx": 0, "feature_type": "embedding"},
        {"node_id": "0_7_0", "layer": "0", "ctx_idx": 0, "activation": 2.5,
         "feature_type": "cross layer transcoder"},
        {"node_id": "0_-1_0", "layer": "0", "ctx_idx": 0,
         "feature_type": "mlp reconstruction error"},
        {"node_id": "2_9_0", "layer": "2", "ctx_idx": 0, "feature_type": "logit",
         "token_prob": 0.8},
    ]  # fmt: skip
    links = [("E_5_0", "0_7_0", 1.0), ("0_7_0", "2_9_0", 3.0), ("0_-1_0", "2_9_0", -1.0)]
    content = {
        "metadata": {"prompt": "a", "prompt_tokens": ["a"]},
        "nodes": nodes,
        "links": [{"source": a, "target": b, "weight": w} for a, b, w in links],
    }
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(content))
    return ll.import_graph(path)


def test_a_graph_opens_in_its_own_view(graph: ll.Result) -> None:
    view = view_of(graph)
    assert isinstance(view, GraphView) and not view.live
    assert view.meta["graph"] == {
        "kinds": ["token", "feature", "error", "output", "part", "coordinate"],
        "ids": ["E_5_0", "0_7_0", "0_-1_0", "2_9_0"],
        "words": ["a", "", "", ""],
    }
    # the names of nodes are said once, and links have none
    assert view.meta["axes"]["node"]["labels"] == view.meta["axes"]["link"]["labels"] == []
    meta, frames = unpack(view.snapshot)
    assert meta["graph"] == view.meta["graph"]
    names = [array["name"] for array in frames[0][0]["arrays"]]
    assert {"source", "target", "weight", "kind", "node_layer"} <= set(names)
    view.close()


def test_its_twin_has_its_traits(graph: ll.Result) -> None:
    traits = traits_of(graph.data, graph.checks)
    assert traits["view"] == "graph"
    assert {name: traits[name] for name in ("node", "pins", "share", "errors")} == {
        "node": "",
        "pins": [],
        "share": 1.0,
        "errors": True,
    }


def test_the_figure_draws_what_is_on_screen(graph: ll.Result) -> None:
    def words(**options: object) -> list[str]:
        figure = graph_figure(graph.data, **options)
        return [text.get_text() for axes in figure.axes for text in axes.texts]

    def points(**options: object) -> int:
        figure = graph_figure(graph.data, **options)
        return sum(
            len(drawn.get_offsets())
            for drawn in figure.axes[0].collections
            if drawn.get_gid() in ("features", "errors")
        )

    assert words() == ["tokens", "layer 0", "answers", "a", "2_9_0 0.8"]
    assert points() == 2
    assert points(errors=False) == 1
    # the feature carries 3 of 4 of what enters the answer, twice: it and its token come first
    assert points(share=0.7) == 1
    with pytest.raises(ResultError, match="no node 'nobody'"):
        graph_figure(graph.data, node="nobody")


def test_a_picture_of_it_is_kept(graph: ll.Result) -> None:
    bundle = graph._repr_mimebundle_()[0]
    assert bundle["image/png"]
    assert "feature_circuit" in bundle["text/plain"]
