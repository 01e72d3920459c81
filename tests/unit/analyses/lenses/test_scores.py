"""Scores of a fitted lens, read as arrays over its points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerlens.analyses.lenses.scores import lens_scores
from layerlens.errors import InputError
from layerlens.result.fitted import Fitted, ModelFacts

FACTS = ModelFacts("made", "made", "float32", 3, 8, "")
FLAT = {"kl/embed": 3.0, "kl/10_post": 1.0, "kl_logit/10_post": 2.0, "texts": 4.0}


def lens(kind: str = "ridge_lens") -> Fitted:
    return Fitted(kind, {}, FACTS, "", scores={"test": FLAT})


def test_measures_are_arrays_over_points() -> None:
    found = lens_scores(lens())
    assert found.point.values.tolist() == ["embed", "10_post"]
    assert found.layer.values.tolist() == [-1, 10]
    assert found.kl.values.tolist() == [3.0, 1.0]
    assert np.isnan(found.kl_logit.values[0])
    assert found.kl_logit.attrs["units"] == "nats"
    assert set(found) == {"kl", "kl_logit"}


def test_a_lens_of_many_points_prints_in_short() -> None:
    scores = {"test": {f"kl/{layer}_post": float(layer) for layer in range(30)}}
    arrays = {f"{layer}_post.bias": torch.zeros(2) for layer in range(30)}
    shown = repr(Fitted("bias_lens", arrays, FACTS, "", scores=scores))
    assert "0_post.bias [2] float32, ... 30 in all ..., 29_post.bias [2] float32" in shown
    assert "test: kl 0 to 29" in shown


def test_what_has_no_scores_is_refused() -> None:
    with pytest.raises(InputError, match="This is a probe, which has no scores by point"):
        lens_scores(lens("probe"))
    with pytest.raises(InputError, match="has no scores of the side 'train'"):
        lens_scores(lens(), "train")
