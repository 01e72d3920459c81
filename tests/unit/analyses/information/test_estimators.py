"""Mutual information: where it is known, as others compute it, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy as shared
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

from layerlens.analyses.information.estimators import Bins, Kernels, Neighbours, binned
from layerlens.analyses.information.known_information import binned_entropy, estimated
from layerlens.errors import InputError

RANDOM = np.random.default_rng(7)
NONE = np.zeros((0, 500), dtype=int)


@pytest.mark.parametrize(("rho", "within"), [(0.0, 0.05), (0.5, 0.05), (0.9, 0.05)])
def test_neighbours_of_a_gaussian_pair(rho: float, within: float) -> None:
    """-1/2 ln(1 - rho^2), and nothing where they are independent."""
    x = RANDOM.standard_normal((2000, 1))
    y = rho * x + np.sqrt(1 - rho**2) * RANDOM.standard_normal((2000, 1))
    found = Neighbours(x).of(y, NONE).inputs
    assert found == pytest.approx(-np.log(1 - rho**2) / 2, abs=within)


def test_neighbours_are_those_of_scikit_learn() -> None:
    labels = RANDOM.integers(0, 3, 300)
    labels[0] = 3  # alone in its label, and left out
    states = RANDOM.standard_normal((300, 1)) + labels[:, None]
    other = states + RANDOM.standard_normal((300, 1))
    found = Neighbours(other, 4).of(states, np.stack([labels, RANDOM.permutation(labels)]))
    options = {"discrete_features": False, "n_neighbors": 4, "random_state": 0}
    wanted = mutual_info_classif(states, labels, **options)[0]
    assert found.labels[0] == pytest.approx(wanted, abs=1e-6) and abs(found.labels[1]) < 0.1
    wanted = mutual_info_regression(other, states[:, 0], **options)[0]
    assert found.inputs == pytest.approx(wanted, abs=1e-6)


def test_bins_by_hand() -> None:
    """Six values in four bins of which one is empty; labels that share one bin."""
    states = np.array([[0.0], [0.2], [0.3], [0.4], [0.9], [1.0]])
    found = Bins(4).of(states, np.array([[0, 0, 1, 1, 1, 1], [0] * 6]))
    parts = [2 / 6, 2 / 6, 2 / 6]
    assert found.inputs == pytest.approx(shared(parts))
    assert found.labels == pytest.approx([shared([2 / 6, 4 / 6]), 0])
    with pytest.raises(InputError, match=r"States reach from 0 to 1, and span is from -1 to 0.5"):
        Bins(4, (-1, 0.5)).of(states, np.zeros((0, 6), int))


def test_bins_of_a_one_to_one_map_keep_all_and_of_a_constant_nothing() -> None:
    labels = RANDOM.integers(0, 4, (1, 200))
    found = binned(np.arange(200)[:, None] * [3, -1], labels)
    share = np.bincount(labels[0]) / 200
    assert found.inputs == pytest.approx(np.log(200))
    assert found.labels[0] == pytest.approx(shared(share))
    constant = Bins().of(np.ones((200, 3)), labels)
    assert constant.inputs == constant.labels[0] == 0


def test_kernels_against_plain_sums() -> None:
    """Both bounds, with all distances at once; more states than are held at a time."""
    states, labels = RANDOM.standard_normal((300, 2)), RANDOM.integers(0, 3, (2, 300))
    found = Kernels(0.2).of(states, labels)
    squared = ((states[:, None] - states) ** 2).sum(-1)
    for scale, inputs, of_labels in (
        (0.4, found.inputs, found.labels),
        (1.6, found.inputs_lower, found.labels_lower),
    ):
        kernel = np.exp(-squared / scale)
        whole = -np.log(kernel.mean(1)).mean()
        assert inputs == pytest.approx(whole) and of_labels is not None
        for draw, label in enumerate(labels):
            parts = [-np.log(kernel[label == c][:, label == c].mean(1)).mean() for c in range(3)]
            within = (np.bincount(label) / 300) @ np.array(parts)
            assert of_labels[draw] == pytest.approx(whole - within)


def test_kernels_bound_what_is_known() -> None:
    """1/2 ln(1 + s^2 / v) between the bounds; apart ln n, together nothing."""
    found = Kernels(0.25).of(RANDOM.standard_normal((500, 1)), NONE)
    assert found.inputs_lower is not None
    assert found.inputs_lower < 0.5 * np.log(5) < found.inputs
    far = Kernels(0.01).of(100.0 * np.arange(500)[:, None], NONE)
    assert far.inputs == far.inputs_lower == pytest.approx(np.log(500))
    assert Kernels().of(np.ones((500, 4)), NONE).inputs == 0


def test_gaussians_have_what_is_said_of_them() -> None:
    """With enough draws an estimator finds it; with few it cannot pass ln n."""
    assert binned_entropy(1e-3) == 0
    edges = np.diff([0, *(np.sort(RANDOM.standard_normal(200_000) * 2).searchsorted(
        np.arange(-12, 13) - 0.5)), 200_000])  # fmt: skip
    assert binned_entropy(2.0) == pytest.approx(shared(edges / edges.sum()), abs=0.01)
    assert estimated(Bins(), 2.0, 4000, 2, 0) == pytest.approx(2.0, abs=0.05)
    assert estimated(Bins(), 9.0, 100, 2, 0) == pytest.approx(np.log(100), abs=0.05)
    one = Neighbours(np.zeros((1500, 1)))
    assert estimated(one, 1.0, 1500, 1, 0) == pytest.approx(1.0, abs=0.08)
    assert estimated(one, 0.0, 1500, 1, 0) == pytest.approx(0.0, abs=0.08)
    assert estimated(Kernels(0.3), 0.0, 200, 3, 0) == 0
    for truth in (0.5, 2.0):  # the bound is one, up to the sample's own error
        assert truth - 0.1 < estimated(Kernels(0.3), truth, 1000, 3, 0) < 3 * truth
