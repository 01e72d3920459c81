"""The default model against numbers that TransformerLens computed (see the script beside)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import layerlens as ll

STORED = json.loads(Path(__file__).with_name("transformer_lens.json").read_text())


@pytest.fixture
def model(default_model: ll.LensModel) -> ll.LensModel:
    return default_model


def test_tokens(model: ll.LensModel) -> None:
    assert model.tokens(STORED["prompt"]).ids[0].tolist() == STORED["ids"]


def test_lens_rows(model: ll.LensModel) -> None:
    lens = ll.logit_lens(model, STORED["prompt"], top_k=5).data.isel(position=-1)
    assert list(lens.point.values) == list(STORED["rows"])
    for label, row in STORED["rows"].items():
        ours = lens.sel(point=label)
        assert float(ours.entropy) == pytest.approx(row["entropy"], abs=2e-4), label
        assert ours.token_id.values.tolist() == row["token_id"], label
        np.testing.assert_allclose(
            ours.probability.values, np.exp(row["logprob"]), atol=1e-4, err_msg=label
        )


def test_patterns(model: ll.LensModel) -> None:
    for name, expected in STORED["patterns"].items():
        trace = ll.record(model, STORED["prompt"], f"pattern.{name}", positions=-1)
        torch.testing.assert_close(
            trace[f"pattern.{name}"][0, 0], torch.tensor(expected), atol=1e-5, rtol=1e-4
        )


def test_vectors_of_heads_have_the_names_that_they_have_there(model: ll.LensModel) -> None:
    for name, expected in STORED["vectors"].items():
        trace = ll.record(model, STORED["prompt"], name, positions=-1)
        kind, layer, _ = name.split(".")
        assert str(trace.sites[0]).startswith(f"blocks.{layer}.attn.hook_{kind}")
        torch.testing.assert_close(
            trace[name][0, 0], torch.tensor(expected), atol=1e-4, rtol=1e-4, msg=name
        )
