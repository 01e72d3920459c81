"""Frozen pages opened from disk, light and dark: axe finds nothing serious in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import visit
from playwright.sync_api import Browser, Page

import layerlens as ll
from layerlens import course
from tests.unit.analyses.small_calls import small_sae

AXE = Path(__file__).parents[2] / "js" / "node_modules" / "axe-core" / "axe.min.js"
RUN_AXE = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ['violations'] });
  return violations.filter(({ impact }) => impact === 'serious' || impact === 'critical').map(
    ({ id, nodes }) => `${id}: ${nodes.slice(0, 4).map(
      (n) => n.target.join(' ') + ' ' + n.failureSummary).join(' | ')}`);
}"""
TEXT = [5, 9, 13, 5, 9, 13, 5, 9]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each view, of a model that is trained but tiny."""
    model = ll.load("toy:induction")
    folder = tmp_path_factory.mktemp("pages")
    pins = [{"position": -1, "id": 13}, {"position": 3, "id": 9}]
    lens = ll.LensView(model, TEXT, tracked=[13], pins=[{**pins[0], "position": 7}, pins[1]])
    edits = [{"site": "resid_pre", "layer": 1, "position": 4}]
    writing = ll.GenerationView(model, TEXT, max_new_tokens=6, points=("embed", "mid", "post"))
    writing.wait(60)
    writing.branch(2, 7)
    bench = ll.PatchView(model, TEXT, [*TEXT[:4], 2, 7, *TEXT[5:]], edits=edits)
    metrics = ll.MetricsView(model, [TEXT, TEXT[2:]], ["attn_norm", "cka", "massive_activations"])
    attention = ll.AttentionView(model, TEXT, TEXT[::-1], pins=[{"position": 3}], query=7, key=2)
    heads = ll.GridView(model, "ablate_sweep", TEXT, how="zero", means=True)
    edges = ll.CurvesView(model, "knockout", TEXT, sources={"a": [0], "b": [1]})
    of_one = ll.FeatureView(model, [TEXT, TEXT[::-1]], small_sae(model), 1, k=2)
    of_one.meanings = {"1": "a word"}
    words = [[5, i, 9, j] for i in (10, 11, 12, 13) for j in (20, 21)]
    labels = [str(text[1] % 2) for text in words]
    plane = ll.ScatterView(model, "state_map", words, labels=labels, method="lda", item=0)
    found = {
        "feature": of_one,
        "strip": ll.StripView(model, "relevance", TEXT, rule="cp", position=3),
        "scatter": plane,
        "lens": lens,
        "generation": writing,
        "patch": bench,
        "metrics": metrics,
        "attention": attention,
        "grid": heads,
        "curves": edges,
    }
    for name, view in found.items():
        view.wait(60)
        view.layer = 1
        view.html(folder / f"{name}.html")
    graph = ll.import_graph(write_graph(folder / "graph.json"))
    ll.GraphView.from_result(graph, node="1_9_1", pins=["0_7_1"]).html(folder / "graph.html")
    question = course.predict(
        "axe", "Which word?", kind="curve", along="abc", between=(0, 1), truth=[0, 1, 0],
        reveal=lens, hint="Draw.",
    )  # fmt: skip
    question.commit([1, 1, 0]).html(folder / "course.html")
    return {name: folder / f"{name}.html" for name in [*found, "graph", "course"]}


def write_graph(path: Path) -> Path:
    """A graph as circuit-tracer writes it, with a node of each kind."""
    nodes = [
        ("E_5_0", "embedding", {}),
        ("E_6_1", "embedding", {}),
        ("0_7_1", "cross layer transcoder", {"activation": 2.5, "clerp": "a letter"}),
        ("0_-1_1", "mlp reconstruction error", {}),
        ("1_9_1", "cross layer transcoder", {"activation": 0.5}),
        ("3_9_1", "logit", {"token_prob": 0.6, "clerp": 'Output " c" (p=0.600)'}),
    ]
    rows = [
        {"node_id": name, "layer": name.split("_")[0], "ctx_idx": int(name[-1]),
         "feature_type": kind, **more}
        for name, kind, more in nodes
    ]  # fmt: skip
    ends = [(0, 2, 1.0), (1, 2, -3.0), (2, 4, 2.0), (3, 4, 0.5), (4, 5, 2.0), (2, 5, -1.0)]
    links = [{"source": nodes[a][0], "target": nodes[b][0], "weight": w} for a, b, w in ends]
    about = {"prompt": "a b", "prompt_tokens": ["a", " b"]}
    path.write_text(json.dumps({"metadata": about, "nodes": rows, "links": links}))
    return path


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, chrome: Browser) -> Iterator[Page]:
    with visit(chrome, offline=True, color_scheme=request.param) as opened:
        yield opened.page
        assert opened.errors == []


@pytest.mark.parametrize(
    "view",
    [
        "lens",
        "scatter",
        "strip",
        "generation",
        "patch",
        "metrics",
        "attention",
        "grid",
        "curves",
        "graph",
        "feature",
    ],
)
def test_nothing_serious_stands_in_anyones_way(
    view: str, page: Page, pages: dict[str, Path]
) -> None:
    page.goto(pages[view].as_uri())
    page.locator("canvas, .ll-node, .ll-feature-written").first.wait_for()
    page.evaluate(AXE.read_text(encoding="utf-8"))
    assert page.evaluate(RUN_AXE) == []
    page.get_by_label("Keys and gestures").click()
    page.locator(".ll-checks > summary").click()
    assert page.evaluate(RUN_AXE) == []


def test_nothing_serious_stands_in_the_way_of_an_answer(page: Page, pages: dict[str, Path]) -> None:
    page.goto(pages["course"].as_uri())
    page.locator(".ll-course-figure canvas").first.wait_for()
    page.evaluate(AXE.read_text(encoding="utf-8"))
    assert page.evaluate(RUN_AXE) == []
