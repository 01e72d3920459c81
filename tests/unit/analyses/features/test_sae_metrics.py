"""What a dictionary costs the model: nothing where it is perfect, all where it is empty."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.features.dictionaries.dictionary import Form
from layerlens.model.lensmodel import LensModel
from layerlens.model.toys import get_toy
from layerlens.result.fitted import Fitted, ModelFacts

WIDTH = 64


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    return get_toy("induction").draw(6, False, torch.Generator().manual_seed(0)).ids.tolist()


def dictionary(model: LensModel, arrays: dict[str, torch.Tensor]) -> Fitted:
    form = Form("relu", centred_input=False)
    options = {"site": "resid_post", "layers": [0], "positions_skipped": 1}
    options["dictionary"] = form.told()
    return Fitted("sae", arrays, ModelFacts.of(model), "", options)


@pytest.fixture(scope="module")
def perfect(model: LensModel) -> Fitted:
    """Each entry and its negative: every activation is decoded exactly."""
    eye = torch.eye(WIDTH)
    arrays = {"W_enc": torch.cat([eye, -eye], 1), "W_dec": torch.cat([eye, -eye])}
    arrays |= {"b_enc": torch.zeros(2 * WIDTH), "b_dec": torch.zeros(WIDTH)}
    return dictionary(model, arrays)


def empty(model: LensModel, b_dec: torch.Tensor) -> Fitted:
    """No feature is ever on."""
    arrays = {"W_enc": torch.zeros(WIDTH, 3), "W_dec": torch.ones(3, WIDTH)}
    arrays |= {"b_enc": -torch.ones(3), "b_dec": b_dec}
    return dictionary(model, arrays)


def test_one_that_decodes_everything_changes_nothing(
    model: LensModel, texts: list[list[int]], perfect: Fitted
) -> None:
    found = ll.sae_metrics(model, texts, sae=perfect)
    data = found.data
    assert found.checks.ok
    for name in ("ce_score", "kl_score", "explained_variance", "shrinkage", "bias"):
        np.testing.assert_allclose(data[name], 1, atol=1e-4, err_msg=name)
    assert float(data.l0) == WIDTH and float(data.density.sum()) == pytest.approx(WIDTH)
    assert int(data.density_histogram.sum()) == 2 * WIDTH


def test_one_without_features_is_its_ablation(model: LensModel, texts: list[list[int]]) -> None:
    data = ll.sae_metrics(model, texts, sae=empty(model, torch.zeros(WIDTH))).data
    np.testing.assert_allclose(
        data.ce.sel(replacement="sae"), data.ce.sel(replacement="zero"), rtol=1e-5
    )
    assert float(data.ce_score.sel(ablation="zero")) == pytest.approx(0, abs=1e-4)
    assert float(data.dead) == 1 and float(data.l0) == 0
    states = ll.record(model, texts, "resid_post.0")["resid_post", 0][:, 1:].flatten(0, 1)
    mean = empty(model, states.mean(0))
    data = ll.sae_metrics(model, texts, sae=mean).data
    assert float(data.explained_variance) == pytest.approx(0, abs=1e-4)
    np.testing.assert_allclose(
        data.ce.sel(replacement="sae"), data.ce.sel(replacement="mean"), rtol=1e-4
    )
    assert float(data.ce_score.sel(ablation="mean")) == pytest.approx(0, abs=1e-3)


def test_losses_are_those_of_plain_hooks(
    model: LensModel, texts: list[list[int]], perfect: Fitted
) -> None:
    ids = torch.tensor(texts)

    def halved(module: object, args: object, output: Any) -> Any:
        state = output[0] if isinstance(output, tuple) else output
        state = state.clone()
        state[:, 1:] /= 2
        return (state, *output[1:]) if isinstance(output, tuple) else state

    handle = model.hf.model.layers[0].register_forward_hook(halved)
    with torch.no_grad():
        logits = model.hf(ids).logits
    handle.remove()
    with torch.no_grad():
        clean = model.hf(ids).logits.log_softmax(-1)
    ce = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    kl = (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1).mean()
    half = dict(perfect.arrays) | {"W_dec": perfect["W_dec"] / 2}
    data = ll.sae_metrics(model, texts, sae=dictionary(model, half)).data
    assert float(data.ce.sel(replacement="sae")) == pytest.approx(float(ce), rel=1e-4)
    assert float(data.kl.sel(replacement="sae")) == pytest.approx(float(kl), rel=1e-4)
    assert float(data.shrinkage) == pytest.approx(0.5) and float(data.bias) == pytest.approx(0.5)


def test_directions_are_shared_with_oneself_and_not_with_random_rows(
    model: LensModel, texts: list[list[int]], perfect: Fitted
) -> None:
    turned = replace(perfect, arrays={**perfect.arrays, "W_dec": perfect["W_dec"].flip(0)})
    of = ll.sae_metrics(model, texts[:1], sae=perfect, other=turned).data.mmcs.values
    assert of[:2] == pytest.approx([1, 1]) and of[2] < 0.5


def test_the_figure_names_what_it_compares_and_draws_no_line_between(
    model: LensModel, texts: list[list[int]], perfect: Fitted
) -> None:
    drawn = ll.sae_metrics(model, texts[:1], sae=perfect).figure().axes
    (kl,) = (axes for axes in drawn if axes.get_title(loc="left").startswith("KL divergence"))
    assert [one.get_text() for one in kl.get_xticklabels()] == ["clean", "sae", "zero", "mean"]
    assert kl.get_xlabel() == "replacement" and "(nats)" in kl.get_title(loc="left")
    assert {line.get_linestyle() for line in kl.lines if line.get_gid() == "curve"} == {"None"}
    (count,) = (axes for axes in drawn if axes.get_xlabel() == "log density")
    assert sum(count.lines[0].get_ydata()) == 2 * WIDTH
