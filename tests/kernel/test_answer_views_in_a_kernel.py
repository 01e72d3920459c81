"""Grids and curves of any analysis in a real kernel, spoken to with raw comm messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from .front_end import FrontEnd, until


@pytest.fixture
def heads(kernel: FrontEnd) -> Iterator[str]:
    """A view of heads taken out, whose first run is done; its comm id."""
    kernel.run(
        "pace['seconds'] = 0.0; "
        "heads = ll.GridView(model, 'ablate_sweep', 'w1 w2 w3', how='zero', method='naive')"
    )
    comm = kernel.last_opened()
    kernel.until_state(comm, "done", run=1)
    yield comm
    kernel.run("pace['seconds'] = 0.0; heads.close()")


def cells(kernel: FrontEnd, comm: str, run: int, name: str = "effect") -> np.ndarray:
    """Put an array of a run together from its frames."""
    meta = [m for m in kernel.states(comm, "meta") if m.get("run") == run][-1]
    [array] = [array for array in meta["arrays"] if array["name"] == name]
    whole = np.full([meta["axes"][dim]["size"] for dim in array["dims"]], np.nan, np.float32)
    for message in kernel.customs(comm, "frame"):
        frame = message["content"]["data"]["content"]
        for header, buffer in zip(frame["arrays"], message["buffers"], strict=True):
            if frame["run"] == run and header["name"] == name:
                box = tuple(
                    slice(s, s + n) for s, n in zip(header["start"], header["shape"], strict=True)
                )
                whole[box] = np.frombuffer(buffer, "<f4").reshape(header["shape"])
    return whole


def replies(kernel: FrontEnd, comm: str) -> dict[Any, dict[str, Any]]:
    found = [m["content"]["data"]["content"] for m in kernel.customs(comm, "reply")]
    return {content["rid"]: content["result"] for content in found}


def test_it_opens_at_once_and_streams(kernel: FrontEnd, heads: str) -> None:
    frames = kernel.frames(heads, run=1)
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[-1]["last"]
    found = cells(kernel, heads, 1)
    kept = kernel.run("print(heads.result.data['effect'].values.tolist())")
    assert np.allclose(found, np.array(eval(kept)), atol=1e-6)
    opened = [m for m in kernel.said if m["msg_type"] == "comm_open"]
    [state] = [
        m["content"]["data"]["state"] for m in opened if m["content"]["comm_id"] == heads
    ]  # fmt: skip
    assert (state["view"], state["inputs"]) == ("grid", {"text": "w1 w2 w3"})


def test_another_text_and_option_from_the_page(kernel: FrontEnd, heads: str) -> None:
    kernel.custom(heads, kind="run", inputs={"text": "w4 w5"})
    kernel.until_state(heads, "done", run=2)
    kernel.set(heads, options={"how": "zero", "method": "naive", "unit": "attn"})
    kernel.until_state(heads, "done", run=3)
    meta = kernel.states(heads, "meta")[-1]
    assert meta["asked"]["inputs"] == {"text": "w4 w5"}
    assert meta["view"] == "curves"
    assert kernel.run("print(heads.result.data['effect'].dims)") == "('layer',)"
    code = kernel.run("print(heads.meta['code'])")
    assert kernel.run(f"print({code}.data.equals(heads.result.data))") == "True"


def test_stop_in_the_middle_and_go_on(kernel: FrontEnd, heads: str) -> None:
    kernel.run("pace['seconds'] = 0.03")
    kernel.set(heads, inputs={"text": "w7 w8 w9"})
    until(lambda: kernel.status(heads).get("run") == 2 and kernel.status(heads).get("done"))
    kernel.custom(heads, kind="cancel", run=2)
    kernel.until_state(heads, "cancelled", run=2)
    assert kernel.frames(heads, run=2)[-1]["last"]
    found = cells(kernel, heads, 2)
    assert np.isnan(found).any()
    assert np.isfinite(found).any()
    assert kernel.run("print(heads.partial.data['effect'].isnull().any().item())") == "True"
    kernel.run("pace['seconds'] = 0.0")
    kernel.custom(heads, kind="run")
    kernel.until_state(heads, "done", run=3)


def test_a_graph_grows_and_stop_keeps_what_was_found(kernel: FrontEnd) -> None:
    kernel.run(
        "pace['seconds'] = 0.02; graph = ll.GraphView(model, 'edge_attribution', "
        "clean='w1 w2 w3', corrupt='w1 w5 w3', answer='w7', wrong='w8', steps=1, start=True)"
    )
    comm = kernel.last_opened()
    # Edges are patched by now, and after that graphs are run.
    until(lambda: kernel.frames(comm, run=1) and "graphs" not in str(kernel.status(comm)), 30)
    until(lambda: len(kernel.frames(comm, run=1)) > 2, 30)
    kernel.custom(comm, kind="cancel", run=1)
    kernel.until_state(comm, "cancelled", run=1)
    assert np.isfinite(cells(kernel, comm, 1, "weight")).any()
    sizes = kernel.run("print(dict(graph.partial.data.sizes))")
    assert eval(sizes)["link"] > 0
    kernel.run("pace['seconds'] = 0.0")
    kernel.custom(comm, kind="run")
    kernel.until_state(comm, "done", run=2)
    ids = kernel.states(comm, "meta")[-1]["graph"]["ids"]
    assert kernel.run("print(graph.result.data.node.values.tolist() == " + f"{ids})") == "True"
    kernel.run("graph.close()")


def test_a_cell_opens_and_its_code_runs(kernel: FrontEnd, heads: str) -> None:
    params = {"array": "effect", "index": [2, 1], "dims": ["layer", "head"]}
    kernel.custom(heads, kind="request", rid="a", method="cell", params=params)
    until(lambda: replies(kernel, heads))
    cell = replies(kernel, heads)["a"]
    assert cell["title"] == "The next token without head 1 of layer 2"
    [table] = cell["tables"]
    word, _, without, _ = table["rows"][0]
    shown = kernel.run(
        f"chances = ({cell['code']}).logits[0, -1].softmax(-1)\n"
        f"print(float(chances[model.token_id({word!r})]))"
    )
    assert float(shown) == pytest.approx(without, abs=1e-5)


def test_what_takes_long_waits_for_its_button(kernel: FrontEnd) -> None:
    kernel.run("from layerlens.views import estimated; estimated.LONG = 0.0")
    kernel.run("waiting = ll.CurvesView(model, ll.skip_layers, text='w1 w2 w3 w4')")
    comm = kernel.last_opened()
    status = kernel.until_state(comm, "waiting", run=1)
    assert status["message"].startswith("About ")
    assert not kernel.frames(comm)
    kernel.custom(comm, kind="run")
    kernel.until_state(comm, "done", run=1)
    kernel.set(comm, inputs={"text": "w5 w6 w7"})
    kernel.until_state(comm, "waiting", run=2)
    assert kernel.run("print(waiting.wait(20).data.attrs['text'])") == "w5 w6 w7"
    kernel.run("waiting.close(); estimated.LONG = 10.0")


def test_last_in_a_cell_a_result_is_its_view(kernel: FrontEnd) -> None:
    cell = kernel.start("ll.head_scores(model, length=8)")
    kernel.until_ended(cell)
    shown = kernel.shown(cell)
    assert "application/vnd.jupyter.widget-view+json" in shown[0]["data"]
    comm = kernel.last_opened()
    until(lambda: "image/png" in kernel.shown(cell)[-1]["data"], 20)
    kernel.custom(comm, kind="ready", run=0, seq=0)
    until(lambda: kernel.frames(comm))
    assert set(kernel.frames(comm)[0]["vocab"]) == set()
    assert cells(kernel, comm, 1, "induction").shape == (6, 2)


def test_a_second_text_is_laid_over_the_first(kernel: FrontEnd) -> None:
    kernel.run(
        "pace['seconds'] = 0.0; "
        "two = ll.GridView(model, 'ablate_sweep', 'w1 w2 w3', how='zero', other='w4 w2 w5')"
    )
    comm = kernel.last_opened()
    kernel.until_state(comm, "done", run=1)
    first, second, change = (
        cells(kernel, comm, 1, name) for name in ("effect", "other.effect", "change_effect")
    )
    assert np.abs(change).max() > 0
    assert np.array_equal(change, second - first)
    assert kernel.states(comm, "meta")[-1]["other"]["label"] == "w4 w2 w5"
    kernel.run("two.close()")
