"""Measured layers in a real kernel, spoken to with raw comm messages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from .front_end import FrontEnd, until

ASKED = "['w1 w2 w3 w4', 'w5 w6 w7'], ['residual_norm', 'cka', 'induction']"


@pytest.fixture
def measured(kernel: FrontEnd) -> Iterator[str]:
    """A view whose first run is done; its comm id."""
    kernel.run(f"pace['seconds'] = 0.0; mv = ll.MetricsView(model, {ASKED})")
    comm = kernel.last_opened()
    kernel.until_state(comm, "done", run=1)
    yield comm
    kernel.run("pace['seconds'] = 0.0; mv.close()")


def arrays(kernel: FrontEnd, comm: str, run: int) -> dict[str, np.ndarray]:
    """Put the arrays of a run together from its frames."""
    metas = [m for m in kernel.states(comm, "meta") if m.get("run") == run]
    found: dict[str, np.ndarray] = {}
    for message in kernel.customs(comm, "frame"):
        frame = message["content"]["data"]["content"]
        for header, buffer in zip(frame["arrays"], message["buffers"], strict=True):
            if frame["run"] != run:
                continue
            dtype = np.dtype(header["dtype"]).newbyteorder("<")
            shape = [metas[-1]["axes"][dim]["size"] for dim in header["dims"]]
            whole = found.setdefault(
                header["name"], np.full(shape, np.nan if dtype.kind == "f" else -1, dtype)
            )
            box = tuple(
                slice(s, s + n) for s, n in zip(header["start"], header["shape"], strict=True)
            )
            whole[box] = np.frombuffer(buffer, dtype).reshape(header["shape"])
    return found


def printed(kernel: FrontEnd, name: str) -> np.ndarray:
    return np.array(eval(kernel.run(f"print(mv.result.data[{name!r}].values.tolist())")))


def test_curves_matrices_and_heads_arrive(kernel: FrontEnd, measured: str) -> None:
    frames = kernel.frames(measured, run=1)
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[-1]["last"]
    found = arrays(kernel, measured, 1)
    for name in ("residual_norm", "residual_norm_low", "cka", "induction"):
        assert np.allclose(found[name], printed(kernel, name), rtol=1e-5), name
    meta = kernel.states(measured, "meta")[-1]
    assert {array["name"]: array["kind"] for array in meta["arrays"]} == {
        "residual_norm": "curve",
        "residual_norm_max": "curve",
        "cka": "matrix",
        "cka_cluster": "clusters",
        "induction": "heads",
    }


def test_a_metric_is_picked_and_a_run_is_stopped(kernel: FrontEnd, measured: str) -> None:
    kernel.run("pace['seconds'] = 0.1")
    kernel.set(measured, metrics=["residual_norm", "block_norm"])
    until(lambda: "block_norm" in arrays(kernel, measured, 2))
    kernel.custom(measured, kind="cancel", run=2)
    kernel.until_state(measured, "cancelled", run=2)
    assert kernel.frames(measured, run=2)[-1]["last"]
    found = arrays(kernel, measured, 2)
    assert np.isfinite(found["residual_norm"]).all()  # known before, so it came at once
    assert np.isnan(found["block_norm"]).any()
    kernel.run("pace['seconds'] = 0.0")
    kernel.custom(measured, kind="cancel", run=2)
    kernel.custom(measured, kind="run", metrics=["block_norm"], texts=["w1 w2 w3"])
    kernel.until_state(measured, "done", run=3)
    assert kernel.run("print(mv.text, list(mv.result.data.data_vars)[0])") == "w1 w2 w3 block_norm"


def test_a_reloaded_page_gets_the_picture_again(kernel: FrontEnd, measured: str) -> None:
    before = kernel.frames(measured, run=1)
    kernel.send(measured, {"method": "request_state"})
    until(
        lambda: any("_esm" in m["content"]["data"].get("state", {}) for m in kernel.heard(measured))
    )
    kernel.custom(measured, kind="ready", run=0, seq=0)
    until(lambda: len(kernel.frames(measured, run=1)) == 2 * len(before))
    assert kernel.frames(measured, run=1)[len(before) :] == before


def test_nonsense_is_a_sentence(kernel: FrontEnd, measured: str) -> None:
    kernel.set(measured, metrics=["residual_nrom"])
    message = until(lambda: kernel.status(measured).get("message"))
    assert "residual_norm" in message
    assert kernel.states(measured, "metrics")[-1] == ["residual_norm", "cka", "induction"]
    kernel.set(measured, texts=["w1"])
    assert "No token counts" in kernel.until_state(measured, "error", run=2)["message"]


def test_a_layer_that_is_dragged_is_not_sent_back(kernel: FrontEnd) -> None:
    kernel.run("both = ll.explore(model, 'w1 w2 w3', 'w1 w9 w3')")
    kernel.run("[v.wait(20) for v in (both.lens, both.metrics, both.patching)]; None")
    lens, metrics = kernel.run("print(both.lens.comm.comm_id, both.metrics.comm.comm_id)").split()
    sent = len(kernel.states(metrics, "layer"))
    for layer in range(5):
        kernel.set(lens, layer=layer)
    shown = "print(both.layer, both.lens.layer, both.metrics.layer, both.patching.layer)"
    assert kernel.run(shown) == "4 4 4 4"
    assert len(kernel.states(metrics, "layer")) == sent
    kernel.run("both.layer = 2")
    until(lambda: kernel.states(metrics, "layer")[-1:] == [2])
    kernel.run("both.close()")
