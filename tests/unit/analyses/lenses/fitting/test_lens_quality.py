"""Lenses judged on texts: as they were judged when they were fitted, and as the logit lens is."""

from __future__ import annotations

import numpy as np
import pytest

import layerlens as ll
from layerlens.analyses.lenses.scores import lens_scores
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from tests.unit.analyses.lenses.fitting.conftest import Texts
from tests.unit.analyses.lenses.fitting.test_fit_lens import SKIPPED, sides


def test_on_the_test_texts_it_finds_the_scores_of_the_fit(affine: LensModel, texts: Texts) -> None:
    ridge, bias = (ll.fit_lens(affine, texts, kind=kind) for kind in ("ridge", "bias"))
    _, test = sides(texts)
    found = ll.lens_quality(affine, test, lens=[bias, ridge]).data
    assert found.lens.values.tolist() == ["logit", "bias", "ridge", "uniform"]
    assert found.point.values.tolist() == ["embed", "0_post", "1_post"]
    scores = lens_scores(ridge)
    for measure in ("kl", "ce", "top1", "kl_low", "kl_high"):
        base, _, end = measure.partition("_")
        for lens in ("logit", "bias", "ridge", "uniform"):
            name = "_".join(x for x in (base, "" if lens == "ridge" else lens, end) if x)
            here = found[measure].sel(lens=lens).values
            np.testing.assert_allclose(here, scores[name], rtol=1e-4, atol=1e-5)


def test_without_a_lens_it_is_the_logit_lens_beside_a_guess(
    affine: LensModel, texts: Texts
) -> None:
    found = ll.lens_quality(affine, texts[:4], points="post")
    lens = ll.logit_lens(affine, texts[:4], points="post").data.isel(position=slice(SKIPPED, None))
    mean = lens.kl_to_final.mean(("batch", "position")).values
    np.testing.assert_allclose(found.data.kl.sel(lens="logit"), mean[:-1], rtol=1e-3, atol=1e-6)
    assert abs(float(found.data.kl.sel(lens="logit", point="2_post"))) < 1e-6
    assert float(found.data.top1.sel(lens="logit", point="2_post")) == 1
    assert found.checks.ok
    assert found.figure(variable="kl") is not None


def test_a_map_read_at_its_own_point_is_the_lens_itself(affine: LensModel, texts: Texts) -> None:
    lens = ll.fit_lens(affine, texts, points=("0_post", "1_post"))
    found = ll.lens_quality(affine, texts[:5], lens=lens, transfer=True).data
    own = np.diagonal(found.transfer.values)
    np.testing.assert_allclose(own, found.kl.sel(lens="ridge"), rtol=1e-5, atol=1e-6)
    assert found.transfer.values[1, 0] > own[0]


def test_what_does_not_fit_is_said(affine: LensModel, constant: LensModel, texts: Texts) -> None:
    lens = ll.fit_lens(affine, texts, kind="bias", points="0_post")
    with pytest.raises(InputError, match="not for embed"):
        ll.lens_quality(affine, texts, lens=lens, points="embed")
    with pytest.raises(InputError, match="was fitted on affine"):
        ll.lens_quality(constant, texts, lens=lens)
    with pytest.raises(InputError, match="transfer is of one fitted lens, not of 0"):
        ll.lens_quality(affine, texts, transfer=True)
    with pytest.raises(InputError, match="No token counts when the first 40"):
        ll.lens_quality(affine, texts, positions_skipped=40)
    for wrong in (3, [3], {"a": 1}):
        with pytest.raises(InputError):
            ll.lens_quality(affine, texts, lens=wrong)
