"""Attention in a real kernel, spoken to with raw comm messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from layerlens.export.attention_slices import Slice, decode

from .front_end import FrontEnd, Message, until


@pytest.fixture
def attention(kernel: FrontEnd) -> Iterator[str]:
    """A view whose first run is done; its comm id."""
    kernel.run("pace['seconds'] = 0.0; av = ll.AttentionView(model, 'w1 w2 w3 w1')")
    comm = kernel.last_opened()
    kernel.until_state(comm, "done", run=1)
    yield comm
    kernel.run("pace['seconds'] = 0.0; av.close()")


def asked(kernel: FrontEnd, comm: str, rid: str, method: str, **params: Any) -> Message:
    """Send a request and wait for its reply or its error."""
    kernel.custom(comm, kind="request", rid=rid, method=method, params=params)

    def answers() -> list[Message]:
        said = kernel.customs(comm, "reply") + kernel.customs(comm, "error")
        return [m for m in said if m["content"]["data"]["content"]["rid"] == rid]

    return until(answers)[0]


def content(message: Message) -> dict[str, Any]:
    return dict(message["content"]["data"]["content"])


def pattern(kernel: FrontEnd, layer: int) -> np.ndarray:
    code = f"print(av.result.data['pattern'].values[{layer}].tolist())"
    return np.array(eval(kernel.run(code)))


def test_a_layer_comes_as_one_buffer_and_a_row_exactly(kernel: FrontEnd, attention: str) -> None:
    reply = asked(kernel, attention, "s", "slice", layer=4, part="self", weighting="pattern")
    header = content(reply)["result"]
    buffer = bytes(reply["buffers"][0])
    assert header["causal"]
    assert len(buffer) == 2 * 4 * 5 // 2
    expected = pattern(kernel, 4)
    assert np.abs(decode(Slice(header, buffer)) - expected).max() < 1 / 255
    row = asked(kernel, attention, "e", "exact", layer=4, head=1, query=2)
    assert np.frombuffer(bytes(row["buffers"][0]), "<f4") == pytest.approx(expected[1, 2])
    carried = [array for frame in kernel.frames(attention, run=1) for array in frame["arrays"]]
    assert {tuple(array["dims"]) for array in carried} == {("layer", "head")}


def test_layers_are_there_while_the_model_runs(kernel: FrontEnd, attention: str) -> None:
    kernel.run("pace['seconds'] = 0.1")
    kernel.set(attention, text="w4 w5 w6")
    until(lambda: kernel.status(attention)["run"] == 2 and kernel.status(attention)["done"] >= 1)
    early = asked(kernel, attention, "a", "slice", layer=0)
    late = asked(kernel, attention, "b", "slice", layer=5)
    assert content(early)["result"]["shape"] == [2, 3, 3]
    assert content(late)["message"].startswith("not yet")
    kernel.run("pace['seconds'] = 0.0")
    kernel.until_state(attention, "done", run=2)
    assert "result" in content(asked(kernel, attention, "c", "slice", layer=5))


def test_a_weighting_that_is_looked_at_is_computed(kernel: FrontEnd, attention: str) -> None:
    kernel.set(attention, weighting="norm")
    kernel.until_state(attention, "done", run=2)
    meta = kernel.states(attention, "meta")[-1]
    assert meta["weightings"] == ["pattern", "norm"]
    reply = asked(kernel, attention, "n", "slice", layer=1, weighting="norm")
    assert content(reply)["result"]["max"][0] > 0
    code = kernel.run("print(repr(eval(av.meta['code']).data['norm_weighted'].values.shape))")
    assert code == "(6, 2, 4, 4)"


def test_an_export_of_a_page_holds_every_layer(kernel: FrontEnd, attention: str) -> None:
    kernel.run(
        "from layerlens.export.pack import unpack\n"
        "meta, _ = unpack(av._frozen()[1])\n"
        "assert len(meta['slices']) == 6 and meta['kept_layers'] == list(range(6)), meta"
    )
