"""Layer mix: scikit-learn, autograd, a planted layer, layers alike or larger, numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import layerlens as ll
from layerlens.analyses.probing.mixing import expected_layer
from layerlens.analyses.probing.over_folds import over_folds
from layerlens.analyses.probing.scalar_mix import Scale, mixed
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load(tiny_model("llama"))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_mix_of_one_layer_is_scikit_learns_regression(classes: int) -> None:
    labels = np.random.default_rng(1).integers(0, classes, 90)
    layers = noise(1, 90, 5)
    layers[0, :, 0] += labels
    own = mixed(layers, labels, classes, 0.5)
    other = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(layers[0], labels)
    np.testing.assert_allclose(own.plane, other.coef_, atol=2e-3)
    np.testing.assert_array_equal(own.predict(layers), other.predict(layers[0]))
    assert own.share.tolist() == [1]


def test_the_mix_is_where_autograd_finds_no_slope() -> None:
    labels = np.arange(60) % 3
    layers = noise(4, 60, 5)
    layers[1, :, 0] += labels
    layers[3, :, 1] += labels == 1
    own = mixed(layers, labels, 3, 1.0)
    weights = torch.tensor(np.log(own.share), requires_grad=True)
    plane, bias = (torch.tensor(part, requires_grad=True) for part in (own.plane, own.bias))
    x = torch.einsum("l,lnd->nd", weights.softmax(0), torch.tensor(layers).double())
    said = torch.nn.functional.cross_entropy(x @ plane.T + bias, torch.tensor(labels))
    (said + plane.square().sum() / 2 / 60).backward()
    for part in (weights, plane, bias):
        assert float(part.grad.abs().max()) < 2e-4
    assert own.share[1] + own.share[3] > 0.9


def test_the_layer_that_holds_the_label_gets_the_weight() -> None:
    labels = np.arange(200) % 2
    layers = noise(6, 200, 8)
    layers[3, :, 2] += 4 * labels
    assert mixed(layers, labels, 2, 1.0).share[3] > 0.9


def test_layers_alike_share_and_a_larger_one_has_no_more() -> None:
    labels = np.random.default_rng(2).integers(0, 2, 80)
    same = np.repeat(noise(1, 80, 6), 4, axis=0)
    same[:, :, 0] += labels
    np.testing.assert_allclose(mixed(same, labels, 2, 1.0).share, 0.25, atol=1e-5)
    larger = same.copy()
    larger[2] *= 10
    assert mixed(larger, labels, 2, 1.0).share[2] > 0.5  # what is mended here
    every = np.ones(80, bool)
    scaled = Scale(list(larger), every).of(list(larger), every, 10**9)
    np.testing.assert_allclose(mixed(scaled, labels, 2, 1.0).share, 0.25, atol=1e-4)
    in_file = Scale(list(larger), every).of(list(larger), every, 1)
    assert isinstance(in_file, np.memmap)
    np.testing.assert_array_equal(in_file, scaled)


def test_a_layer_of_a_model_that_writes_the_label_is_found(model: LensModel) -> None:
    # each block's MLP output is read, so that what one writes is not in the ones behind it
    random = np.random.default_rng(3)
    given = random.integers(3, 95, (60, 4)).tolist()
    labels = [ids[-1] % 2 for ids in given]
    direction = torch.nn.functional.normalize(
        torch.randn(model.d_model, generator=torch.Generator().manual_seed(1)), dim=0
    )
    fed: list[list[int]] = []
    embed, mlp = model.hf.get_input_embeddings(), model.hf.model.layers[1].mlp

    def see(module: object, args: tuple) -> None:
        fed[:] = args[0].tolist()

    def plant(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        signs = torch.tensor([2.0 * (ids[-1] % 2) - 1 for ids in fed])
        return output + 20 * signs[:, None, None] * direction

    hooks = [embed.register_forward_pre_hook(see), mlp.register_forward_hook(plant)]
    try:
        found = ll.layer_mix(model, given, labels, site="mlp_out", folds=4)
    finally:
        for hook in hooks:
            hook.remove()
    data, last = found.data, found.data.point[-1]
    assert found.checks.ok
    weight = data.weight.sel(labels="given")
    assert data.layer.values.tolist() == [0, 1, 2]
    assert float(weight[1]) > 0.9
    assert (data.weight_low <= data.weight + 1e-9).all()
    np.testing.assert_allclose(data.weight.sum("point"), 1, atol=1e-6)
    assert float(data.centre_of_gravity.sel(labels="given")) == pytest.approx(1, abs=0.1)
    assert float(data.expected_layer) == pytest.approx(1, abs=0.1)
    right = data.accuracy.sel(point=last)
    assert float(right.sel(of="mix up to here")) >= 0.98
    low, high = (data[f"accuracy_{end}"].sel(of="the same, shuffled labels", point=last)
                 for end in ("low", "high"))  # fmt: skip
    assert low < 0.5 < high
    assert float(data.shuffled_accuracy_low) < 0.5 and float(data.shuffled_accuracy) < 0.65
    assert float(data.gain[1]) > 0.2
    assert int(data.selected_layer) == 1
    assert float(data.mix_over_layer_low) <= 0 <= float(data.mix_over_layer_high)


def test_a_mean_layer_that_may_lie_outside_of_the_layers_is_said(model: LensModel) -> None:
    random = np.random.default_rng(0)
    given, labels = random.integers(3, 95, (40, 4)).tolist(), random.integers(0, 2, 40).tolist()
    data = ll.layer_mix(model, given, labels, folds=4).data
    assert float(data.expected_layer_high) > model.n_layers
    assert "may lie outside of the layers" in data.attrs["notes"]


def test_numbers_by_hand() -> None:
    mean, low, high = over_folds(np.array([0.2, 0.4]), np.array([0, 0, 1, 1]))
    # variance 0.02, times 1/2 + 1; Student's t of 1 is 12.706
    assert (mean, high - mean) == pytest.approx((0.3, 12.706 * np.sqrt(0.03)), abs=1e-4)
    assert mean - low == pytest.approx(high - mean)
    right = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1.0]])
    layers = np.array([-1, 4, 8])
    assert expected_layer(right, layers, np.arange(4))[0] == pytest.approx(0.25 * 4 + 0.75 * 8)
    assert np.isnan(expected_layer(right[::-1], layers, np.arange(4))[0])


def test_what_does_not_fit_is_refused(model: LensModel) -> None:
    given = [[3 + i, 5] for i in range(12)]
    with pytest.raises(InputError, match="numbers with a fraction"):
        ll.layer_mix(model, given, [0.5 * i for i in range(12)])
    with pytest.raises(InputError, match="one layer to mix"):
        ll.layer_mix(model, given, [0, 1] * 6, layers=[1])
