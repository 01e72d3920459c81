"""Conditions of probes: weights changed by hand, no news without change, what is there returns."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.probing.asked import points_of
from layerlens.analyses.probing.conditions import Condition, conditions_of
from layerlens.analyses.probing.examples import recorded
from layerlens.analyses.probing.numbers import mean_between
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load(tiny_model("llama"))


def texts(number: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [[5 + 40 * (i % 2), *random.integers(3, 95, 3).tolist()] for i in range(number)]


def test_states_are_those_of_a_model_that_was_changed_by_hand(model: LensModel) -> None:
    given = model.tokens(texts(3))
    points = points_of(model, "resid_post", None)
    for condition in (Condition(bits=4), Condition(dtype="bfloat16")):
        other = copy.deepcopy(model.hf)
        if condition.bits:
            for block in other.model.layers:
                for linear in (m for m in block.modules() if isinstance(m, torch.nn.Linear)):
                    weight = linear.weight.data
                    step = weight.abs().amax(1, keepdim=True) / 7
                    linear.weight.data = step * (weight / step).round()
        else:
            other.to(torch.bfloat16)
        with torch.no_grad():
            wanted = other(given.ids, output_hidden_states=True).hidden_states[2][:, -1].float()
        with condition.on(model, 0) as under:
            found = recorded(under, given, points, -1, 10**9).states[2]
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
        assert np.abs(found - recorded(model, given, points, -1, 10**9).states[2]).max() > 1e-4


def test_noise_has_the_size_that_was_asked_for_and_leaves_nothing_behind(model: LensModel) -> None:
    weight = model.hf.model.layers[0].mlp.up_proj.weight
    before, place = weight.detach().clone(), weight.data_ptr()
    with Condition(weight_noise=0.3).on(model, 0):
        off = model.hf.model.layers[0].mlp.up_proj.weight.detach() - before
        assert float(off.std() / before.std()) == pytest.approx(0.3, rel=0.1)
    assert torch.equal(weight, before) and weight.data_ptr() == place
    states = np.random.default_rng(0).normal(size=(50, 200)).astype(np.float32) * 3
    off = Condition(state_noise=0.5).blurred(states, 0) - states
    assert off.std() / states.std() == pytest.approx(0.5, rel=0.05)
    assert Condition().blurred(states, 0) is states


def test_what_changes_nothing_is_no_change_and_what_destroys_is_one(model: LensModel) -> None:
    given = texts(40)
    labels = [ids[0] for ids in given]
    found = ll.probe_conditions(model, given, labels, position=0, folds=3, bits=16, layers=[0, 2],
                                weight_noise=(), dtypes=("float32", "bfloat16"),
                                state_noise=(50.0,))  # fmt: skip
    data = found.data
    assert found.checks.ok and data.passes == 4
    probed = ll.probe(model, given, labels, position=0, folds=3, untrained=False,
                      layers=[0, 2]).data  # fmt: skip
    np.testing.assert_array_equal(
        data.accuracy.sel(condition="as it is"), probed.accuracy.sel(of="probe")
    )
    for name in ("as it is", "float32"):
        assert (data.change.sel(condition=name) == 0).all()
    coarse = ["bfloat16", "weights of 16 bits"]
    assert (data.change_low.sel(condition=coarse) <= 0).all()
    assert (data.change_high.sel(condition=coarse) >= 0).all()
    noisy = data.sel(condition="noise of 50 on states")
    assert (noisy.change_high < -0.1).all() and (noisy.accuracy_low < 0.6).all()
    assert (data.accuracy_low.sel(condition="shuffled labels") < 0.6).all()
    assert (data.accuracy.sel(condition="majority") == 0.5).all()
    assert data.change.sel(condition="majority").isnull().all()


def test_the_paired_interval_is_narrower_than_two_that_are_not() -> None:
    random = np.random.default_rng(0)
    one = (random.random(200) < 0.7).astype(float)
    other = one.copy()
    other[:4] = 1 - other[:4]
    mean, low, high = mean_between(other - one, np.arange(200))
    assert mean == pytest.approx((other - one).mean())
    assert low <= mean <= high and high - low < 0.05
    assert mean_between(one - one, np.arange(200)) == (0, 0, 0)


def test_what_does_not_fit_is_refused(model: LensModel) -> None:
    wrong: tuple[tuple[dict[str, object], str], ...] = (
        ({"bits": 1}, "bits has 1"),
        ({"dtypes": "int8"}, "dtypes has 'int8'"),
        ({"weight_noise": -1}, "weight_noise has -1"),
        ({"state_noise": ["much"]}, "state_noise has 'much'"),
        ({}, "no condition to compare with"),
    )
    nothing: dict[str, object] = {"bits": (), "weight_noise": (), "dtypes": (), "state_noise": ()}
    for options, words in wrong:
        with pytest.raises(InputError, match=words):
            conditions_of(model, **{**nothing, **options})
    with pytest.raises(InputError, match="numbers with a fraction"):
        ll.probe_conditions(model, texts(9), [0.5 * i for i in range(9)])
