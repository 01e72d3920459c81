"""Maps of states: scikit-learn's numbers, planted clusters, labels that say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

import layerlens as ll
from layerlens.analyses.information.planes import (
    Plane,
    discriminants,
    main_plane,
    principal,
    shares,
    turned,
)
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from .. import by_hooks

RANDOM = np.random.default_rng(5)
IDS = [RANDOM.integers(3, 90, 4 + i % 3).tolist() for i in range(24)]
LABELS = ["even", "odd"] * 12


@pytest.fixture(scope="module")
def model() -> LensModel:
    return by_hooks.wrapped("llama")


@pytest.fixture(scope="module")
def states(model: LensModel) -> list[np.ndarray]:
    """Of the last token of each text, after the embedding and each block but the last."""
    with torch.no_grad():
        runs = [model.hf(torch.tensor([ids]), output_hidden_states=True) for ids in IDS]
    # the last of hidden_states is normed
    return [
        np.stack([run.hidden_states[depth][0, -1].double().numpy() for run in runs])
        for depth in range(model.n_layers)
    ]


def test_components_are_those_of_scikit_learn(model: LensModel, states: list[np.ndarray]) -> None:
    found = ll.state_map(model, IDS, LABELS)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    assert {check.name for check in found.checks} == {"first text alone", "distances", "variance"}
    apart = np.setdiff1d(np.arange(24), _train(found))
    for depth, here in enumerate(states):
        known = PCA(2).fit(here)
        drawn = found.data.isel(point=depth, labels=0)
        ours = np.stack([drawn.x, drawn.y], 1) * np.sqrt(here.var(0).sum())
        theirs = known.transform(here)
        theirs *= np.sign((ours * theirs).sum(0))
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
        explained = found.data.explained.isel(point=depth).values
        np.testing.assert_allclose(explained[:2], known.explained_variance_ratio_, atol=1e-6)
        given = np.array(LABELS)
        for space, seen in (("map", ours), ("all directions", here)):
            told = NearestCentroid().fit(np.delete(seen, apart, 0), np.delete(given, apart))
            accuracy = found.data.nearest_mean_accuracy.isel(point=depth).sel(space=space)
            assert float(accuracy) == told.score(seen[apart], given[apart])


def _train(found: ll.Result) -> np.ndarray:
    """Texts that teach, drawn as the contract draws them."""
    apart = np.random.default_rng(found.data.attrs["split_seed"]).permutation(24)[:12]
    return np.setdiff1d(np.arange(24), apart)


@pytest.mark.parametrize("method", ["pca", "lda"])
def test_clusters_that_a_block_plants(model: LensModel, method: str) -> None:
    """Chance before block 1, and from it on all texts lie with their label."""
    direction = torch.nn.functional.normalize(torch.ones(model.d_model), dim=0)
    sign = {tuple(ids): 2 * (i % 2) - 1 for i, ids in enumerate(IDS)}
    fed: list[list[int]] = []

    def see(module: object, args: tuple[torch.Tensor, ...]) -> None:
        fed[:] = args[0].tolist()

    def plant(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        signs = torch.tensor([sign[tuple(i for i in ids if i)] for ids in fed])
        return output + 50 * signs[:, None, None] * direction

    hooks = [
        by_hooks.embedding(model.hf).register_forward_pre_hook(see),
        by_hooks.blocks(model.hf)[1].register_forward_hook(plant),
    ]
    try:
        found = ll.state_map(model, IDS, LABELS, method=method)
    finally:
        for hook in hooks:
            hook.remove()
    assert found.checks.ok
    told = found.data.nearest_mean_accuracy
    assert float(told.sel(space="map", point="1_post")) == 1
    assert (told.sel(space="map", point=["embed", "0_post"]) < 0.85).all()
    chance = told.sel(space=["map, labels shuffled", "all directions, labels shuffled"])
    assert (abs(chance - 0.5) < 0.15).all()
    x = found.data.x.isel(labels=0).sel(point="1_post").values
    apart = x[1::2] if x[1] > x[0] else x[::2]
    assert apart.min() > 0 > np.setdiff1d(x, apart).max()


def test_discriminants_part_labels_that_say_nothing_where_they_were_fitted() -> None:
    """20 states in 60 dimensions: nearly any labels are parted, and of states set apart none."""
    states = RANDOM.standard_normal((400, 60))
    place = np.arange(400) % 2
    fitted = states[:20]
    plane = discriminants(principal(fitted), fitted, place[:20], 50)
    right = (plane(states)[:, 0] > 0) == (place == 1)
    right = right if right[:20].mean() > 0.5 else ~right
    assert right[:20].mean() >= 0.9
    assert 0.4 < right[20:].mean() < 0.6


def test_discriminants_of_many_states_are_those_of_scikit_learn() -> None:
    place = np.arange(6000) % 3
    spread = np.diag([3.0, 1, 1, 0.5])
    states = np.eye(3, 4)[place] * 2 + RANDOM.standard_normal((6000, 4)) @ spread
    plane = discriminants(principal(states), states, place, 50)
    known = LinearDiscriminantAnalysis(n_components=2).fit(states, place).transform(states)
    known /= known.std(0)
    ours = plane(states)
    ours *= np.sign((ours * known).sum(0))
    np.testing.assert_allclose(ours, known, atol=0.02)
    assert plane.off < 1e-9


def test_a_plane_is_turned_to_the_one_before() -> None:
    cloud = RANDOM.standard_normal((20, 2)) * [2, 1]
    angle = 2.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotated = Plane(np.zeros(2), turn)
    np.testing.assert_allclose(turned(cloud, rotated, cloud, "rotation")(cloud), cloud, atol=1e-12)
    by_signs = turned(cloud, rotated, cloud, "signs")(cloud)
    assert ((by_signs * cloud).sum(0) > 0).all()
    np.testing.assert_allclose(np.abs(by_signs), np.abs(rotated(cloud)))


def test_states_that_are_all_the_same_are_one_point(model: LensModel) -> None:
    """A common last token has one embedding: nothing is there to be told, and nothing is said."""
    found = ll.state_map(model, [[*ids, 7] for ids in IDS], LABELS).data.sel(point="embed")
    assert not found.x.any() and not found.y.any()
    assert found.nearest_mean_accuracy.isnull().all() and found.explained.isnull().all()
    one = principal(np.ones((5, 3)))
    assert len(one.variance) == 0 and np.isnan(shares(main_plane(one), np.ones((5, 3)))).all()


def test_an_estimate_counts_other_texts(model: LensModel) -> None:
    alone = ll.state_map.work(model, IDS, LABELS)
    both = ll.state_map.work(model, IDS, LABELS, other_texts=[[4, 9, 5], [7, 8, 9]])
    assert both.tokens == alone.tokens + 6 == sum(map(len, IDS)) + 6
    assert both.bytes * len(IDS) == alone.bytes * (len(IDS) + 2)
    assert both.operations == alone.operations  # axes are of the texts alone


def test_tokens_and_other_texts(model: LensModel) -> None:
    found = ll.state_map(
        model, IDS, LABELS, position="each", other_texts=[[4, 9, 5]], most=20, layers=[0, 1]
    )
    assert found.checks.ok and found.data.sizes["item"] == 20
    everything = ll.state_map(model, IDS, LABELS, position="each", other_texts=[[4, 9, 5]])
    data = everything.data
    assert data.sizes["item"] == sum(map(len, IDS)) + 3
    assert data.label.values.tolist() == ["even", "odd", "other texts"]
    assert data.label_id.values[0, -3:].tolist() == [2, 2, 2]
    assert data.fitted.values.tolist() == [True] * sum(map(len, IDS)) + [False] * 3
    # the first token of the first text, and what stands after it
    words = [model.token_string(i) for i in IDS[0]]
    assert data.words.values[0] == f"[{words[0]}]{''.join(words[1:5])}"
    # without the first token of each
    later = ll.state_map(model, IDS, LABELS, position="each", skip_first=True)
    assert later.data.words.values[0] == f"{words[0]}[{words[1]}]{''.join(words[2:6])}"
    assert later.data.sizes["item"] == sum(map(len, IDS)) - 24 and later.checks.ok
    # labels of tokens: position is told by nothing but the position
    own = [[i < 2 for i in range(len(ids))] for ids in IDS]
    by_token = ll.state_map(model, IDS, own, position="each").data
    assert by_token.label_id.values[0, :3].tolist() == [1, 1, 0]
    # without labels nothing is said of them
    assert "nearest_mean_accuracy" not in ll.state_map(model, IDS).data


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "tsne"}, "Method of state_map: 'tsne'"),
        ({"align": "sign"}, "did you mean 'signs'"),
        ({"labels": None, "method": "lda"}, "method='lda' needs labels"),
        ({"labels": ["a"] * 24}, "texts of one label alone"),
        ({"labels": LABELS[:-1]}, "23 labels and 24 texts"),
        ({"labels": [[1]] * 24, "position": "each"}, "24 labels and"),
        ({"shuffles": 1}, "shuffles is 1"),
        ({"position": "each", "skip_first": 6}, "skip_first is 6, and no text"),
        ({"skip_first": True}, "skip_first of state_map has an effect only with position='each'"),
        ({"components": 9}, "components of state_map has an effect only with method='lda'"),
        ({"other_labels": ["a"]}, "other_labels of state_map has an effect only where"),
    ],
)
def test_what_does_not_fit(model: LensModel, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.state_map(model, IDS, **{"labels": LABELS, **options})
