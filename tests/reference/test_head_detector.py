"""Scores of the default model's heads against TransformerLens (see the script beside)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import layerlens as ll

STORED = json.loads(Path(__file__).with_name("head_detector.json").read_text())
DETECTORS = ("previous_token", "duplicate_token", "induction")


@pytest.mark.parametrize("plain", [True, False])
def test_head_scores(default_model: ll.LensModel, plain: bool) -> None:
    model = default_model
    assert model.tokens(STORED["text"]).ids[0].tolist() == STORED["ids"]
    names = [*DETECTORS, "attention_entropy"] if plain else list(DETECTORS)
    options = {"exclude_first": not plain, "exclude_current": not plain}
    found = ll.layer_metrics(
        model,
        STORED["text"],
        names,
        skip_first=False,
        metric_options=dict.fromkeys(DETECTORS, options),
    ).data
    for name in names:
        expected = STORED["scores"][name if plain else f"{name}_without_first_and_current"]
        for layer, row in expected.items():
            mine = found[name].sel(layer=int(layer))
            np.testing.assert_allclose(mine, row, atol=1e-5, err_msg=f"{name} {layer}")
