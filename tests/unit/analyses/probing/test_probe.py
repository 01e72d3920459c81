"""Probes: planted labels, labels that say nothing, scikit-learn itself, known numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import layerlens as ll
from layerlens.analyses.probing import examples
from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.controls import by_type, shuffled
from layerlens.analyses.probing.examples import recorded
from layerlens.analyses.probing.folds import Folds, Judged, elsewhere, judged
from layerlens.analyses.probing.learner import Learner, Lesson
from layerlens.analyses.probing.numbers import (
    chosen_elsewhere,
    concept_depth,
    share_between,
    wilson,
)
from layerlens.analyses.probing.online_code import compression
from layerlens.analyses.probing.probe import points_of
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load(tiny_model("llama"))


def texts(number: int, seed: int = 0, length: int = 6) -> list[list[int]]:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(3, 95, (number, length), generator=made).tolist()


def task(labels: np.ndarray, unit: np.ndarray | None = None) -> Task:
    classes = tuple(range(int(labels.max()) + 1))
    return Task(labels, np.arange(len(labels)) if unit is None else unit, False, classes)


def told(
    states: np.ndarray, own: Task, folds: Folds, kind: str = "linear", strength: float = 1.0
) -> Judged:
    """What a probe of each fold's others makes of it."""
    lessons = folds.lessons(own)
    readers = Learner(kind, 0).learn(states, lessons, [strength] * len(lessons))
    return judged(states, own, folds, readers)


def test_a_label_that_a_block_writes_is_read_from_there_on(model: LensModel) -> None:
    given = texts(80)
    labels = [number % 2 for number in range(80)]
    sign = torch.tensor(labels).float() * 2 - 1
    direction = torch.nn.functional.normalize(
        torch.randn(model.d_model, generator=torch.Generator().manual_seed(1)), dim=0
    )
    block = model.hf.model.layers[1]
    known = {tuple(ids): float(sign[i]) for i, ids in enumerate(given)}
    fed: list[list[int]] = []

    def see(module: object, args: tuple) -> None:
        fed[:] = args[0].tolist()

    def plant(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        signs = torch.tensor([known[tuple(i for i in ids if i)] for ids in fed])
        return output + 20 * signs[:, None, None] * direction

    hooks = [model.hf.get_input_embeddings().register_forward_pre_hook(see),
             block.register_forward_hook(plant)]  # fmt: skip
    try:
        found = ll.probe(model, given, labels=labels, untrained=False)
    finally:
        for hook in hooks:
            hook.remove()
    accuracy = found.data.accuracy.sel(of="probe")
    assert (accuracy.sel(point=["embed", "0_post"]) < 0.75).all()
    assert float(accuracy.sel(point="1_post")) >= 0.99
    assert found.checks.ok
    assert int(found.data.selected_layer) >= 1
    assert float(found.data.selected_accuracy) >= 0.95
    read = found.fitted["1_post.direction"]
    assert float(read.norm()) == pytest.approx(1, abs=1e-5)
    assert float(read @ direction) > 0.7


def test_labels_that_say_nothing_stay_at_chance() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for seed in range(20):
        states = random.normal(size=(120, 12))
        labels = random.integers(0, 2, 120)
        blind = task(labels)
        found = told(states, blind, Folds.of(blind, 4, seed)).numbers
        inside += found["accuracy_low"] <= 0.5 <= found["accuracy_high"]
    assert inside >= 17  # 19 of 20 on average


def test_a_linear_rule_is_found_and_the_folds_are_scikit_learns() -> None:
    random = np.random.default_rng(1)
    states = random.normal(size=(300, 10))
    labels = (states @ random.normal(size=10) > 0).astype(int)
    own = task(labels)
    folds = Folds.of(own, 3, 0)
    found = told(states, own, folds)
    assert found.numbers["accuracy"] >= 0.95
    scores, right = np.empty(300), np.empty(300)
    for fold in range(3):
        here = folds.number == fold
        scaler = StandardScaler().fit(states[~here])
        fitted = LogisticRegression(max_iter=1000).fit(
            scaler.transform(states[~here]), labels[~here]
        )
        scores[here] = fitted.decision_function(scaler.transform(states[here]))
        right[here] = fitted.predict(scaler.transform(states[here])) == labels[here]
    np.testing.assert_array_equal(found.right, right)
    assert found.numbers["auc"] == pytest.approx(roc_auc_score(labels, scores))


def test_groups_stay_whole_and_leaks_do_not_count() -> None:
    random = np.random.default_rng(2)
    group = np.repeat(np.arange(30), 4)
    of_group = random.integers(0, 2, 30)
    # states say which group it is, and nothing of its label
    states = np.eye(30)[group] + 0.01 * random.normal(size=(120, 30))
    leaky = task(of_group[group])
    honest = replace(leaky, unit=group)
    kept = Folds.of(honest, 5, 0)
    for number in range(30):
        assert len(np.unique(kept.number[group == number])) == 1
    by_text = told(states, leaky, Folds.of(leaky, 5, 0)).numbers["accuracy"]
    by_group = told(states, honest, kept).numbers
    assert by_text > 0.9
    assert by_group["accuracy_low"] < 0.55


def test_types_that_were_not_learned_are_at_chance() -> None:
    random = np.random.default_rng(3)
    types = np.repeat(np.arange(60), 5)
    labels = random.integers(0, 2, 300)
    drawn = by_type(task(labels), types, 0)
    assert all(len(set(drawn.labels[types == kind])) == 1 for kind in range(60))
    states = np.eye(60)[types] + 0.01 * random.normal(size=(300, 60))
    seen = told(states, drawn, Folds.of(drawn, 5, 0), strength=100.0).numbers["accuracy"]
    unseen = replace(drawn, unit=types)
    apart = told(states, unseen, Folds.of(unseen, 5, 0), strength=100.0).numbers
    assert seen > 0.95
    assert apart["accuracy_low"] < 0.5 < apart["accuracy_high"] + 0.1
    with pytest.raises(InputError, match="needs the type of each example"):
        by_type(task(labels), np.full(300, -1), 0)
    # what is shuffled is dealt out by units
    whole = shuffled(replace(task(labels[:60][types]), unit=types), 1)
    assert all(len(set(whole.labels[types == kind])) == 1 for kind in range(60))


def test_numbers_by_hand() -> None:
    depth = concept_depth([0.5, 0.6, 0.7, 0.72, 0.725, 0.727])
    assert depth == {
        "jumping_point": pytest.approx(1 / 6),
        "converging_point": pytest.approx(3 / 6),
        "converging_point_literal": pytest.approx(5 / 6),
    }
    flat = concept_depth([0.5] * 4)
    assert np.isnan(flat["jumping_point"]) and flat["converging_point"] == 0.25
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson (1927), by tables
    mean, low, high = share_between(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1]))
    assert (mean, low, high) == (0.5, 0.0, 1.0)  # two units that disagree
    right = np.array([[1, 1, 0, 0], [0, 0, 1, 1.0]])
    scores = np.array([[0.2, 0.9], [0.8, 0.1]])  # of each point, for each fold
    answered, chosen = chosen_elsewhere(right, np.array([0, 0, 1, 1]), scores)
    assert chosen == [1, 0] and answered.tolist() == [0, 0, 0, 0]


def test_the_best_of_many_layers_of_noise_is_not_better_than_chance() -> None:
    best, selected = [], []
    for seed in range(16):
        random = np.random.default_rng(seed)
        blind = task(random.permutation(np.repeat([0, 1], 30)))
        folds = Folds.of(blind, 5, seed)
        layers = [random.normal(size=(60, 6)) for _ in range(8)]
        right = np.stack([told(states, blind, folds, "mean_difference").right for states in layers])
        apart, learner = folds.lessons_apart(blind), Learner("mean_difference", 0)
        scores = np.stack(
            [elsewhere(states, blind, folds, learner.learn(states, apart, [1.0] * 5))
             for states in layers]
        )  # fmt: skip
        answered, _ = chosen_elsewhere(right, folds.number, scores)
        best.append(right.mean(1).max())
        selected.append(answered.mean())
    assert np.mean(best) > 0.56  # what a person would be tempted to report
    error = np.std(selected) / 4
    assert abs(np.mean(selected) - 0.5) < 2.5 * error


def test_the_online_code_of_random_labels_saves_nothing() -> None:
    random = np.random.default_rng(4)
    states = random.normal(size=(400, 6))
    labels = random.integers(0, 2, 400)

    def short(labels: np.ndarray, strength: float) -> float:
        def learn(states: np.ndarray, lessons: list[Lesson]) -> list[object]:
            return Learner("linear", 0).learn(states, lessons, [strength] * len(lessons))

        return compression(states, task(labels), 0, learn)

    assert short(labels, 0.01) == pytest.approx(1, abs=0.1)
    assert short((states[:, 0] > 0).astype(int), 10.0) > 2


def span_of(where: object, number: int, length: int) -> tuple[int, int]:
    if isinstance(where, list):
        return where[number]
    if isinstance(where, int):
        return where % length, where % length + 1
    return 0, length


@pytest.mark.parametrize("where", [-1, 2, "mean", "each", [(0, 2), (1, 3), (2, 6), (0, 4)]])
def test_states_are_those_of_each_text_alone(
    model: LensModel, where: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [ids[: 4 + i] for i, ids in enumerate(texts(4, length=8))]
    points = points_of(model, "resid_post", None)
    found = recorded(model, model.tokens(given), points, where, 10**9)
    place = 0
    for number, ids in enumerate(given):
        with torch.no_grad():
            hidden = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        start, stop = span_of(where, number, len(ids))
        own = hidden[start:stop] if where == "each" else hidden[start:stop].mean(0, keepdim=True)
        kept = found.states[1][place : place + len(own)]
        np.testing.assert_allclose(kept, own.numpy(), atol=1e-5)
        assert (found.text[place : place + len(own)] == number).all()
        place += len(own)
    monkeypatch.setattr(examples, "BATCH_TOKENS", 2)  # shards, of which the memory holds one
    small = recorded(model, model.tokens(given), points, where, 1)
    np.testing.assert_array_equal(small.text, found.text)
    assert small.states.in_file and not found.states.in_file
    for a, b in zip(small.states, found.states, strict=True):
        np.testing.assert_array_equal(a, b)


def test_pieces_of_a_text_stand_where_its_labels_do(model: LensModel) -> None:
    long, short = texts(2, length=8)
    cut = ll.texts([long, short[:4]], length=4)
    found = recorded(model, cut, points_of(model, "resid_post", None), "each", 10**9)
    assert found.text.tolist() == [0] * 8 + [1] * 4
    assert found.type.tolist() == [*long, *short[:4]]


def test_an_estimate_counts_other_texts(model: LensModel) -> None:
    given, other = texts(9), [[7, 8, 9, 10]] * 5
    options = {"labels": [0, 1, 1] * 3, "other_labels": [0, 1, 0, 1, 0]}
    alone = ll.probe.work(model, given, labels=options["labels"])
    both = ll.probe.work(model, given, other_texts=other, **options)
    assert (alone.tokens, both.tokens) == (9 * 6, 9 * 6 + 5 * 4)
    points, numbers = model.n_layers + 1, 4 * model.d_model
    assert (alone.bytes, both.bytes) == (9 * points * numbers, 14 * points * numbers)


@pytest.mark.parametrize("kind", ["linear", "mean_difference", "mlp"])
def test_every_kind_reads_the_first_token(model: LensModel, kind: str) -> None:
    given = [[5 + 20 * (i % 3), *ids] for i, ids in enumerate(texts(18, length=2))]
    labels = [ids[0] for ids in given]
    few = kind != "mlp"  # which takes long to fit
    options = {"kind": kind, "position": 0, "folds": 3, "layers": [0], "untrained": few}
    found = ll.probe(model, given, labels=labels, **options)
    assert found.checks.ok
    data = found.data.sel(point="0_post")
    assert float(data.accuracy.sel(of="probe")) == 1.0
    if few:
        assert float(data.accuracy.sel(of="untrained")) == 1.0  # the token alone is enough
    assert float(data.accuracy.sel(of="majority")) == pytest.approx(1 / 3)
    assert float(data.selectivity) == pytest.approx(1 - float(data.accuracy.sel(of="control")))
    assert (found.fitted is None) is (kind == "mlp")


def test_numbers_are_predicted(model: LensModel) -> None:
    given = texts(60, length=3)
    states = recorded(model, model.tokens(given), points_of(model, "resid_post", [1]), -1, 10**9)
    wanted = states.states[0] @ np.linspace(-1, 1, model.d_model)
    found = ll.probe(model, given, labels=[float(x) for x in wanted], strength=1e3, layers=[1])
    assert float(found.data.accuracy.sel(of="probe", point="1_post")) > 0.9
    assert float(found.data.accuracy.sel(of="majority", point="1_post")) == 0
    assert "auc" not in found.data


def test_the_direction_of_a_probe_is_what_steers(model: LensModel) -> None:
    given = [[7 + 30 * (i % 2), *ids] for i, ids in enumerate(texts(40, length=2))]
    read = ll.probe(model, given, labels=[i % 2 for i in range(40)], untrained=False)
    found = ll.probe_steering(model, given[0], probe=read, random=2, answer=17, wrong=20)
    assert found.checks.ok
    assert found.data.of.values.tolist() == ["probe", "random 1", "random 2"]
    layer, dose = 1, 0.5
    state = ll.record(model, given[0], "resid_post")[f"resid_post.{layer}"][0].float()
    step = dose * state.norm(dim=-1).mean() * read.fitted["1_post.direction"]
    logits = ll.run(model, given[0], edits=[ll.edit(f"resid_post.{layer}", "add", step)]).logits
    expected = float(logits[0, -1, 17] - logits[0, -1, 20])
    got = found.data.dose_metric.sel(of="probe", layer=layer, coefficient=dose)
    assert float(got) == pytest.approx(expected, abs=1e-3)
    bias = ll.fit_lens(model, texts(5), kind="bias")
    with pytest.raises(InputError, match="probe is no probe"):
        ll.probe_steering(model, given[0], probe=bias)


def test_what_does_not_fit_is_said(model: LensModel) -> None:
    given = texts(6, length=3)
    for options, words in (
        ({}, "There are no labels"),
        ({"labels": [1, 0]}, "There are 2 labels and 6 texts"),
        ({"labels": [1] * 6}, "nothing to tell apart"),
        ({"labels": [*"ababab"], "folds": 9}, "6 texts or groups for 9 folds"),
        ({"labels": [*"ababab"], "position": 5}, "has 3 tokens, and none at 5"),
        ({"labels": [*"ababab"], "position": "span"}, "needs spans="),
        ({"labels": [*"ababab"], "site": "resid_pre"}, "Site 'resid_pre'"),
        ({"labels": [*"ababab"], "types": [1] * 6}, "has an effect only"),
        ({"labels": [[1, 0]] * 6, "position": "each"}, "There are 12 labels and 18 tokens"),
    ):
        with pytest.raises(InputError, match=words):
            ll.probe(model, given, untrained=False, **options)
