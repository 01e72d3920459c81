"""Neural collapse: of planted simplices, against plain sums, and with nothing to find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

import layerlens as ll
from layerlens.analyses.contract.split import split_labelled
from layerlens.analyses.information.class_geometry import geometry
from layerlens.analyses.information.label_classifier import Linear, RidgeFits, agreement
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from .. import by_hooks

RANDOM = np.random.default_rng(3)
IDS = [RANDOM.integers(3, 90, 4 + i % 3).tolist() for i in range(12)]
LABELS = ["a", "b", "c"] * 4


@pytest.fixture(scope="module")
def model() -> LensModel:
    return by_hooks.wrapped("llama")


def simplex(classes: int) -> np.ndarray:
    """Corners of unit length."""
    return np.sqrt(classes / (classes - 1)) * (np.eye(classes) - 1 / classes)


def test_a_noisy_simplex() -> None:
    """Isotropic noise of deviation s in d = C dimensions: NC1 = s^2 (C - 1)^2 / C."""
    classes, noise = 10, 0.0627
    place = np.repeat(np.arange(classes), 4000)
    states = simplex(classes)[place] + noise * RANDOM.standard_normal((len(place), classes))
    found = geometry(states, place)
    assert found.nc1 == pytest.approx(noise**2 * 81 / 10, rel=0.02)
    assert found.equinorm < 0.01 and found.equiangle < 0.01 and found.error == 0
    assert geometry(states, place, averaged=False).nc1 == pytest.approx(10 * found.nc1)


def test_known_by_hand() -> None:
    """Two labels on a line, at +-1 around -3 and 3: within 1, between 9; all near their own."""
    found = geometry(np.array([[-4.0], [-2.0], [2.0], [4.0]]), np.array([0, 0, 1, 1]))
    assert found == pytest.approx((1 / 9 / 2, 0, 0, 0))
    # 0 and 4 | 1 and 5: each lies 4 from the other of its label, at most 3 from the other mean
    assert geometry(np.array([[0.0], [4.0], [1.0], [5.0]]), np.array([0, 0, 1, 1])).error == 1
    # a right angle and a straight one between lengths 2, 1, 1
    star = np.array([[2.0, 0], [-1, 1], [-1, -1]])
    cosines = np.array([-1 / np.sqrt(2), -1 / np.sqrt(2), 0])
    found = geometry(np.repeat(star, 2, axis=0), np.repeat(np.arange(3), 2))
    lengths = np.array([2, np.sqrt(2), np.sqrt(2)])
    assert found.equiangle == pytest.approx(np.abs(cosines + 0.5).mean())
    assert found.equinorm == pytest.approx(lengths.std() / lengths.mean())


def test_it_ignores_turns_shifts_and_scale() -> None:
    states, place = RANDOM.standard_normal((30, 6)), np.arange(30) % 3
    turn = np.linalg.qr(RANDOM.standard_normal((6, 6)))[0]
    assert geometry(7 * states @ turn + 5, place) == pytest.approx(geometry(states, place))


def test_means_that_coincide_have_no_scatter_between() -> None:
    found = geometry(np.array([[-1.0], [1.0], [-1.0], [1.0]]), np.arange(4) // 2)
    assert np.isnan(found.nc1) and np.isnan(found.error)
    # two of three classes are one point: their states are nearest to neither
    three = geometry(np.array([[0.1], [0.1], [0.1], [0.1], [0.7], [0.7]]), np.arange(6) // 2)
    assert three.error == pytest.approx(2 / 3)


def test_of_a_simplex_the_probe_is_its_dual() -> None:
    """NC2 to NC4 are 0 of corners anywhere and any size; of shuffled labels they are not."""
    place = np.repeat(np.arange(4), 6)
    corners = 3 * simplex(4) @ np.linalg.qr(RANDOM.standard_normal((9, 4)))[0].T + 5
    states = corners[place]
    found = agreement(RidgeFits(states, 0.01).of(place), (states, place), (states, place))
    assert found == pytest.approx((0, 0, 0, 0), abs=1e-12)
    dealt = RANDOM.permutation(place)
    found = agreement(RidgeFits(states, 0.01).of(dealt), (states, dealt), (states, place))
    assert min(found[:3]) > 0.05


def test_a_classifier_by_hand() -> None:
    """Rows at right angles to the means, and the other way round; a bias that decides all."""
    states, place = np.array([[1.0, 0], [-1, 0]]), np.array([0, 1])
    across = agreement(Linear(np.array([[0.0, 1], [0, -1]]), np.zeros(2)), *2 * [(states, place)])
    assert across.duality == pytest.approx(2) and across.equiangle == pytest.approx(0)
    against = agreement(Linear(-states, np.zeros(2)), (states, place), (states, place))
    assert against.duality == pytest.approx(4) and against.disagreement == 1
    biased = agreement(Linear(states, np.array([9.0, 0])), (states, place), (states, place))
    assert biased.duality == pytest.approx(0) and biased.disagreement == 0.5
    # rows of means with -|m|^2 / 2 decide as the nearest mean does, whatever the texts
    means = RANDOM.standard_normal((3, 5))
    others = RANDOM.standard_normal((200, 5)), RANDOM.integers(0, 3, 200)
    own = Linear(means, -(means**2).sum(1) / 2)
    assert agreement(own, (means, np.arange(3)), others).disagreement == 0


def test_least_squares_is_that_of_scikit_learn() -> None:
    states, place = RANDOM.standard_normal((20, 7)) + 3, np.arange(20) % 3
    fits = RidgeFits(states, 0.2)
    strength = 0.2 * float(((states - states.mean(0)) ** 2).sum())
    wanted = Ridge(alpha=strength).fit(states, np.eye(3)[place])
    found = fits.of(place)
    np.testing.assert_allclose(found.weights, wanted.coef_, atol=1e-10)
    np.testing.assert_allclose(found.bias, wanted.intercept_, atol=1e-10)
    assert fits.error(found, place) < 1e-12 < 1e-3 < fits.error(found, place[::-1])


def test_halves_have_every_label_and_whole_groups() -> None:
    labels = ["a", "b", "b", "a"] * 6
    found = split_labelled([n // 4 for n in range(24)], labels, seed=1)
    assert found.by == "group" and {n // 4 for n in found.train}.isdisjoint(
        n // 4 for n in found.test
    )
    assert [labels[n] for n in found.train].count("a") == 6
    with pytest.raises(InputError, match="All texts labelled 'c' are of one group"):
        split_labelled([0, 0, 1, 1], ["c", "c", "d", "d"], seed=0)


def test_against_the_head_in_plain_torch(model: LensModel) -> None:
    """Words of the head: its rows against normed means of the half set apart, and its decisions."""
    words = {"a": 7, "b": 30, "c": 51}
    found = ll.neural_collapse(model, ll.texts(IDS, label=LABELS), classifier=words, seed=2)
    assert found.checks.ok and "words as the head says them" in [c.name for c in found.checks]
    split = split_labelled([None] * 12, LABELS, seed=2)
    with torch.no_grad():
        outputs = [model.hf(torch.tensor([ids]), output_hidden_states=True) for ids in IDS]
        rows = model.hf.get_output_embeddings().weight[[7, 30, 51]].double()
        states = torch.stack([out.hidden_states[1][0, -1] for out in outputs])
        given = model.hf.model.norm(states).double()
    sides = [
        torch.stack([given[[n for n in side if n % 3 == c]].mean(0) for c in range(3)])
        for side in (split.train, split.test)
    ]
    w, m = rows - rows.mean(0), sides[1] - sides[1].mean(0)
    gap = (w / w.norm() - m / m.norm()).square().sum()
    here = found.data.sel(point="0_post", labels="given")
    assert float(here.duality) == pytest.approx(float(gap), rel=1e-5)
    test = list(split.test)
    differ = (given[test] @ rows.T).argmax(1) != torch.cdist(given[test], sides[0]).argmin(1)
    assert float(here.disagreement) == pytest.approx(float(differ.double().mean()))
    lengths = w.norm(dim=1)
    assert float(here.equinorm_weights) == pytest.approx(
        float(lengths.std(correction=0) / lengths.mean())
    )


def test_without_a_classifier_there_is_none(model: LensModel) -> None:
    texts = ll.texts(IDS, label=LABELS)
    alone = ll.neural_collapse(model, texts, classifier=None, shuffles=3).data
    both = ll.neural_collapse(model, texts, shuffles=3).data
    assert "duality" not in alone and both.attrs["classifier"].startswith("a probe of 6 texts")
    np.testing.assert_array_equal(alone.nc1, both.nc1)


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("padding", ["one by one", "padded"])
def test_against_plain_sums(model: LensModel, pool: str, padding: str) -> None:
    size = 1 if padding == "one by one" else None
    found = ll.neural_collapse(model, ll.texts(IDS, label=LABELS), pool=pool, batch_size=size)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    with torch.no_grad():
        outputs = [model.hf(torch.tensor([ids]), output_hidden_states=True) for ids in IDS]
    # the last of hidden_states is normed, so the state before it is compared
    for depth, point in enumerate(found.data.point.values[:-1]):
        states = [out.hidden_states[depth][0].double() for out in outputs]
        here = torch.stack([s[-1] if pool == "last" else s.mean(0) for s in states])
        means = torch.stack([here[i::3].mean(0) for i in range(3)])
        within = torch.stack([here[i] - means[i % 3] for i in range(12)])
        between = torch.cov(means.T, correction=0)
        inverse = torch.linalg.pinv(between, rtol=1e-9)
        nc1 = torch.trace(within.T @ within / 12 @ inverse) / 3
        given = found.data.sel(point=point, labels="given")
        assert float(given.nc1) == pytest.approx(float(nc1), rel=1e-4)
        wrong = 0
        for i, state in enumerate(here):
            others = [here[[j for j in range(c, 12, 3) if j != i]].mean(0) for c in range(3)]
            gaps = torch.stack([(state - other).norm() for other in others])
            wrong += int(gaps.argmin()) != i % 3
        assert float(given.nearest_mean_error) == pytest.approx(wrong / 12)


def test_labels_that_the_last_token_is_have_collapsed(model: LensModel) -> None:
    """At the embedding the last token decides all: each label is a point; shuffled ones are not."""
    ids = [[*text[:-1], 20 + i % 3] for i, text in enumerate(IDS)]
    found = ll.neural_collapse(model, ll.texts(ids, label=LABELS)).data.sel(point="embed")
    assert float(found.nc1[0]) < 1e-12 and float(found.nearest_mean_error[0]) == 0
    assert float(found.disagreement[0]) == 0
    assert float(found.nc1[1]) > 0.1 and float(found.nearest_mean_error[2]) > 0.3
    assert list(found.nc1[1:].values) == sorted(found.nc1[1:].values)


@pytest.mark.parametrize(
    ("options", "labels", "words"),
    [
        ({"pool": "first"}, LABELS, "pool is 'first'"),
        ({"variant": "code"}, LABELS, "variant is 'code'"),
        ({"shuffles": 0}, LABELS, "shuffles is 0"),
        ({"ridge": 0.0}, LABELS, "ridge is 0.0"),
        ({"ridge": 1.0, "classifier": None}, LABELS, "ridge of neural_collapse has an effect only"),
        ({"classifier": "words"}, LABELS, "classifier is 'words'"),
        ({"classifier": {"a": 3, "b": 4}}, LABELS, "one word for each label"),
        ({"classifier": {"a": 3, "b": 4, "c": 4}}, LABELS, "Two labels have the same word"),
        ({"skip_first": 4}, LABELS, "skip_first is 4"),
        ({}, ["a"] * 12, "All texts are labelled 'a'"),
        ({}, [*LABELS[:-1], "d"], "Label 'd' has a single text"),
    ],
)
def test_what_does_not_fit(
    model: LensModel, options: dict[str, Any], labels: list[str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        ll.neural_collapse(model, ll.texts(IDS, label=labels), **options)
    with pytest.raises(InputError, match="have no labels"):
        ll.neural_collapse(model, IDS)
