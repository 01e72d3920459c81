"""The patch bench in a real kernel, spoken to with raw comm messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from .front_end import FrontEnd, until

PAIR = "clean='w1 w2 w3 w4', corrupt='w1 w2 w9 w4', answer='w7', wrong='w8'"


@pytest.fixture
def bench(kernel: FrontEnd) -> Iterator[str]:
    """A bench whose first sweep is done; its comm id."""
    kernel.run(f"pace['seconds'] = 0.0; bench = ll.PatchView(model, {PAIR})")
    comm = kernel.last_opened()
    kernel.until_state(comm, "done", run=1)
    yield comm
    kernel.run("pace['seconds'] = 0.0; bench.close()")


def cells(kernel: FrontEnd, comm: str, run: int) -> np.ndarray:
    """Put the recovered fractions of a run together from its frames."""
    meta = [m for m in kernel.states(comm, "meta") if m.get("run") == run][-1]
    whole = np.full((len(meta["rows"]), len(meta["columns"])), np.nan, np.float32)
    for message in kernel.customs(comm, "frame"):
        frame = message["content"]["data"]["content"]
        for header, buffer in zip(frame["arrays"], message["buffers"], strict=True):
            if frame["run"] == run and header["name"] == "recovered":
                box = tuple(
                    slice(s, s + n) for s, n in zip(header["start"], header["shape"], strict=True)
                )
                whole[box] = np.frombuffer(buffer, "<f4").reshape(header["shape"])
    return whole


def replies(kernel: FrontEnd, comm: str, kind: str = "reply") -> dict[Any, dict[str, Any]]:
    found = [m["content"]["data"]["content"] for m in kernel.customs(comm, kind)]
    return {content["rid"]: content for content in found}


def edit(layer: int, position: int) -> dict[str, Any]:
    place = {"layer": layer, "position": position}
    return {"site": "resid_pre", **place, "head": None, "from": place, "on": True}


def test_it_opens_at_once_and_streams_the_grid(kernel: FrontEnd, bench: str) -> None:
    frames = kernel.frames(bench, run=1)
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[-1]["last"]
    kinds = []
    for message in kernel.heard(bench):
        data = message["content"]["data"]
        kinds.append("frame" if data["method"] == "custom" else " ".join(data["state"]))
    first = next(i for i, kind in enumerate(kinds) if "meta" in kind.split())
    assert first < kinds.index("frame")
    found = cells(kernel, bench, 1)
    assert found.shape == (6, 4)
    assert found[0, 2] == pytest.approx(1.0, abs=1e-5)
    kept = kernel.run("print(bench.result.data['recovered'].values.tolist())")
    assert np.allclose(found, np.array(eval(kept)), atol=1e-6)


def test_stop_in_the_middle_of_a_sweep(kernel: FrontEnd, bench: str) -> None:
    kernel.run("pace['seconds'] = 0.02")
    kernel.set(bench, options={"method": "naive"}, site="attn_out")
    # a run that has finished nothing gives way to the picture before it
    until(lambda: kernel.status(bench).get("run") == 2 and kernel.status(bench).get("done"))
    kernel.custom(bench, kind="cancel", run=2)
    kernel.until_state(bench, "cancelled", run=2)
    assert kernel.frames(bench, run=2)[-1]["last"]
    found = cells(kernel, bench, 2)
    assert np.isnan(found).any()
    assert np.isfinite(found).any()
    code = "print(bench.partial.data['recovered'].isnull().any().item(), bench.result is not None)"
    assert kernel.run(code) == "True True"
    kernel.run("pace['seconds'] = 0.0")
    kernel.set(bench, site="mlp_out")
    kernel.until_state(bench, "done", run=3)


def test_a_distribution_is_answered_and_its_code_runs(kernel: FrontEnd, bench: str) -> None:
    params = {"edits": [edit(2, 2)], "k": 3}
    kernel.custom(bench, kind="request", rid="a", method="distribution", params=params)
    until(lambda: replies(kernel, bench))
    result = replies(kernel, bench)["a"]["result"]
    assert result["metric"]["recovered"] == pytest.approx(cells(kernel, bench, 1)[2, 2], abs=1e-4)
    best = result["after"][0]
    code = f"top = ({result['code']}).logits[0, -1].softmax(-1)"
    shown = kernel.run(f"{code}\nprint(int(top.argmax()), float(top.max()))").split()
    assert int(shown[0]) == best[0]
    assert float(shown[1]) == pytest.approx(best[2], abs=1e-5)


def test_lenses_come_as_two_buffers(kernel: FrontEnd, bench: str) -> None:
    params = {"edits": [edit(2, 2)]}
    kernel.custom(bench, kind="request", rid="b", method="lens", params=params)
    message = until(lambda: kernel.customs(bench, "reply"))[0]
    sizes = message["content"]["data"]["content"]["result"]
    assert [len(buffer) for buffer in message["buffers"]] == [
        sizes[name]["bytes"] for name in ("before", "after")
    ]


def test_two_benches_of_one_model(kernel: FrontEnd, bench: str) -> None:
    kernel.run("pair = dict(clean='w5 w6', corrupt='w5 w7'); other = ll.PatchView(model, **pair)")
    other = kernel.last_opened()
    kernel.run("pace['seconds'] = 0.005")
    for number in range(20, 24):
        kernel.set(bench, corrupt=f"w1 w2 w{number} w4")
        kernel.set(other, corrupt=f"w{number} w6")
    code = "print(*[v.wait(20).data.attrs['corrupt_text'] for v in (bench, other)])"
    assert kernel.run(code) == "w1 w2 w23 w4 w23 w6"
    for comm in (bench, other):
        run = kernel.until_state(comm, "done")["run"]
        assert kernel.frames(comm, run=run)[-1]["last"]
    kernel.run("other.close()")


def test_a_reloaded_page_gets_the_picture_again(kernel: FrontEnd, bench: str) -> None:
    before = kernel.frames(bench, run=1)
    kernel.send(bench, {"method": "request_state"})
    until(lambda: any("_esm" in m["content"]["data"].get("state", {}) for m in kernel.heard(bench)))
    kernel.custom(bench, kind="ready", run=0, seq=0)
    until(lambda: len(kernel.frames(bench, run=1)) == 2 * len(before))
    assert kernel.frames(bench, run=1)[len(before) :] == before


def test_bad_input_is_a_sentence(kernel: FrontEnd, bench: str) -> None:
    kernel.set(bench, corrupt="w1 w2 w3 w4")
    message = kernel.until_state(bench, "error", run=2)["message"]
    assert "Both prompts are the same" in message
    kernel.set(bench, corrupt="w1 w2 w9 w4", answer="w1 w2")
    assert "one token" in kernel.until_state(bench, "error", run=3)["message"]
    kernel.set(bench, answer="")
    kernel.until_state(bench, "done", run=4)


def test_a_sweep_streams_while_a_cell_is_busy(kernel: FrontEnd, bench: str) -> None:
    cell = kernel.start("pace['seconds'] = 0.02; bench.site = 'mlp_out'; time.sleep(1.5)")
    kernel.until_state(bench, "done", run=2)
    assert not kernel.ended(cell)
    until(lambda: kernel.ended(cell))
