"""Influence and pruning, against numbers worked out by hand and against dense powers."""

from __future__ import annotations

import numpy as np
import pytest

from layerlens.analyses.circuits.influence import (
    Links,
    cumulative,
    link_influence,
    node_influence,
    pruned,
)
from layerlens.errors import InputError

# token 0 -> feature 1 -> output 3; error 2 -> output 3 and feature 1 (weights as below)
HAND = Links(
    source=np.array([0, 2, 1, 2]),
    target=np.array([1, 1, 3, 3]),
    weight=np.array([3.0, -1.0, 2.0, 6.0]),
    nodes=4,
)
ANSWERS = np.array([0.0, 0.0, 0.0, 0.8])


def test_by_hand() -> None:
    # feature 1 has 2 of 8 of the output: 0.2; the token 3 of 4 of that; the error 0.6 + 0.05
    assert node_influence(HAND, ANSWERS) == pytest.approx([0.15, 0.2, 0.65, 0.0])
    assert link_influence(HAND, ANSWERS) == pytest.approx([0.15, 0.05, 0.2, 0.6])


def test_what_enters_is_what_the_answers_are_worth() -> None:
    influence = node_influence(HAND, ANSWERS)
    assert influence[[0, 2]].sum() == pytest.approx(0.8)


def test_against_powers_of_the_dense_matrix() -> None:
    rng = np.random.default_rng(0)
    weights = np.tril(rng.normal(size=(12, 12)), -1)  # rows are targets: no cycle
    weights[rng.random((12, 12)) < 0.4] = 0
    target, source = np.nonzero(weights)
    links = Links(source, target, weights[target, source], 12)
    answers = np.zeros(12)
    answers[-2:] = 0.5, 0.3
    shares = np.abs(weights)
    shares = shares / np.maximum(shares.sum(1, keepdims=True), 1e-30)
    expected = answers @ (np.linalg.inv(np.eye(12) - shares) - np.eye(12))
    assert node_influence(links, answers) == pytest.approx(expected)


def test_a_circle_is_refused() -> None:
    circle = Links(np.array([0, 1]), np.array([1, 0]), np.ones(2), 2)
    with pytest.raises(InputError, match="go in a circle"):
        node_influence(circle, np.array([0.0, 1.0]))


def test_pruning_takes_what_leads_nowhere_and_is_not_entered() -> None:
    # 0 token, 1 strong feature, 2 weak feature, 3 feature that only the weak one enters, 4 output
    links = Links(
        source=np.array([0, 1, 0, 2, 3]),
        target=np.array([1, 4, 2, 3, 4]),
        weight=np.array([1.0, 90.0, 1.0, 1.0, 10.0]),
        nodes=5,
    )
    answers = np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    always = np.array([True, False, False, False, True])
    inner = np.array([False, True, True, True, False])
    found = pruned(links, answers, always=always, inner=inner, node_threshold=0.8)
    assert found.nodes.tolist() == [True, True, False, False, True]
    assert found.links.tolist() == [True, True, False, False, False]
    whole = pruned(
        links, answers, always=always, inner=inner, node_threshold=1.0, link_threshold=1.0
    )
    assert whole.nodes.all() and whole.links.all()


def test_a_threshold_is_a_share() -> None:
    none = np.zeros(4, dtype=bool)
    with pytest.raises(InputError, match=r"node_threshold is 80; it is a share"):
        pruned(HAND, ANSWERS, always=none, inner=none, node_threshold=80)


def test_cumulative_counts_from_the_strongest() -> None:
    assert cumulative(np.array([1.0, 6.0, 3.0])) == pytest.approx([1.0, 0.6, 0.9])
