"""The page of a feature in a real kernel, spoken to with raw comm messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .front_end import FrontEnd, until

OPENS = """
pace['seconds'] = 0.0
from tests.unit.analyses.small_calls import small_sae
sae = small_sae(model)
page = ll.FeatureView(model, ['w1 w2 w3 w4', 'w4 w3 w2 w1'], sae, 1, k=2, new_tokens=2,
                      strengths=[1])
"""


@pytest.fixture
def page(kernel: FrontEnd) -> Iterator[str]:
    """The page of feature 1, which is there; its comm id."""
    kernel.run(OPENS)
    comm = kernel.last_opened()
    kernel.until_state(comm, "done", run=1)
    yield comm
    kernel.run("page.close()")


def asked(kernel: FrontEnd, comm: str, rid: str, method: str, **params: Any) -> dict[str, Any]:
    """What comes of a request."""
    kernel.custom(comm, kind="request", rid=rid, method=method, params=params)

    def reply() -> list[dict[str, Any]]:
        said = kernel.customs(comm, "reply") + kernel.customs(comm, "error")
        told = [message["content"]["data"]["content"] for message in said]
        return [content for content in told if content["rid"] == rid]

    return until(reply)[0]


def test_it_steers_goes_on_and_keeps_what_is_written(kernel: FrontEnd, page: str) -> None:
    steered = asked(kernel, page, "a", "steer", strength=3.0)["result"]
    written = kernel.run(
        "data = page.result.data; ids = data.prompt_token.values.tolist()\n"
        "step = 3.0 * float(data.scale) * sae['W_dec'][1]\n"
        "edit = ll.edit('resid_post.0', 'add', step, always=True)\n"
        "new = model.generate(ids, 2, edit).new_ids\n"
        "print([model.token_string(i) for i in new])"
    )
    assert [token["text"] for token in steered["texts"][0]["tokens"]] == eval(written)
    refused = asked(kernel, page, "b", "steer", strength="much")
    assert "The strength is a number" in refused["message"]

    # a word of someone's, and the page of another feature
    kernel.set(page, meanings={"1": "a word"})
    options = json.loads(kernel.run("import json; print(json.dumps(page.options))"))
    kernel.set(page, options={**options, "number": 2})
    kernel.until_state(page, "done", run=2)
    assert kernel.states(page, "meta")[-1]["feature"]["number"] == 2
    assert kernel.run("print(page.number, page.meanings)") == "2 {'1': 'a word'}"
    code = kernel.states(page, "meta")[-1]["code"]
    kernel.run("texts = ['w1 w2 w3 w4', 'w4 w3 w2 w1']")
    assert kernel.run(f"print({code}.data.equals(page.result.data))") == "True"
