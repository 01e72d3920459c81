"""The strength of a probe: chosen where it matters, by nothing that judges it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import layerlens as ll
from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.folds import Folds, judged
from layerlens.analyses.probing.learner import Learner, Lesson
from layerlens.analyses.probing.strengths import GRID, Strengths
from layerlens.errors import InputError
from layerlens.model.tiny import tiny_model

LEARNER = Learner("linear", 0)


def task(labels: np.ndarray, unit: np.ndarray | None = None) -> Task:
    classes = () if labels.dtype.kind == "f" else (0, 1)
    return Task(labels, np.arange(len(labels)) if unit is None else unit, not classes, classes)


def strengths_of(strength: float | str, states: np.ndarray, lessons: list[Lesson]) -> list[float]:
    return Strengths(strength, lessons, 0).of(states, LEARNER)


def test_what_is_not_taught_has_no_part_in_the_choice() -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(90, 6)).astype(np.float32)
    own = task((states[:, 0] + random.normal(size=90) > 0).astype(int))
    lessons = Folds.of(own, 3, 0).lessons(own)
    chosen = strengths_of("cv", states, lessons)
    for lesson, strength in zip(lessons, chosen, strict=True):
        labels, other = own.labels.copy(), states.copy()
        labels[~lesson.taught] = 1 - labels[~lesson.taught]
        other[~lesson.taught] *= 100
        changed = Lesson(replace(own, labels=labels), lesson.taught)
        assert strengths_of("cv", other, [changed]) == [strength]


def test_it_is_small_for_noise_and_large_for_a_rule() -> None:
    random = np.random.default_rng(1)
    states = random.normal(size=(120, 60)).astype(np.float32)
    noise = task(random.integers(0, 2, 120))
    rule = task((states[:, 0] > 0).astype(int))
    everything = np.ones(120, bool)
    found = strengths_of("cv", states, [Lesson(noise, everything)])
    assert found == [GRID[0]]  # nothing to learn: nothing is learned
    easy = (states[:, :2]).copy()
    assert strengths_of("cv", easy, [Lesson(rule, everything)])[0] >= 10


def test_it_is_the_one_that_scikit_learn_finds() -> None:
    random = np.random.default_rng(2)
    states = random.normal(size=(90, 10)).astype(np.float32)
    for scale in (0.3, 1.0, 10.0):
        weak = task((scale * states.sum(1) + random.logistic(size=90) > 0).astype(int))
        inside = Folds.of(weak, 3, 0).number
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(tol=1e-6, max_iter=2000)),
            {"logisticregression__C": GRID},
            scoring="neg_log_loss",
            cv=[np.nonzero(inside != fold) + np.nonzero(inside == fold) for fold in range(3)],
        ).fit(states, weak.labels)
        found = strengths_of("cv", states, [Lesson(weak, np.ones(90, bool))])
        assert found == [search.best_params_["logisticregression__C"]]


def test_noise_is_not_made_better_by_it() -> None:
    means = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        states = random.normal(size=(60, 8)).astype(np.float32)
        blind = task(random.permutation(np.repeat([0, 1], 30)))
        folds = Folds.of(blind, 3, seed)
        lessons = folds.lessons(blind)
        strengths = strengths_of("cv", states, lessons)
        readers = LEARNER.learn(states, lessons, strengths)
        means.append(judged(states, blind, folds, readers).numbers["accuracy"])
    assert np.mean(means) < 0.5 + 2.5 * np.std(means) / np.sqrt(8)


def test_groups_are_whole_inside_too() -> None:
    # A state says which group it is and nothing of its label: with groups torn apart it would be
    # worth learning by heart, with groups whole it is not.
    random = np.random.default_rng(3)
    group = np.repeat(np.arange(16), 8)
    states = (np.eye(16)[group] + 0.01 * random.normal(size=(128, 16))).astype(np.float32)
    labels = random.permutation(np.repeat([0, 1], 8))[group]
    everything = np.ones(128, bool)
    torn, whole = (Lesson(task(labels, unit), everything) for unit in (np.arange(128), group))
    by_text, by_group = strengths_of("cv", states, [torn, whole])
    assert by_text >= 10 and by_group <= 0.01


def test_numbers_choose_by_their_errors() -> None:
    random = np.random.default_rng(4)
    states = random.normal(size=(60, 40)).astype(np.float32)
    rule, noise = task(states[:, 0].astype(float)), task(random.normal(size=60))
    lessons = [Lesson(one, np.ones(60, bool)) for one in (rule, noise)]
    strong, weak = strengths_of("cv", states, lessons)
    assert strong > 1 > weak


def test_a_probe_shows_what_was_chosen() -> None:
    model = ll.load(tiny_model("llama"))
    random = np.random.default_rng(5)
    given = [[7 + 30 * (i % 2), *random.integers(3, 95, 2).tolist()] for i in range(24)]
    options = {"labels": [i % 2 for i in range(24)], "position": 0, "untrained": False, "folds": 3}
    found = ll.probe(model, given, strength="cv", layers=[1], **options)
    data = found.data.sel(point="1_post")
    assert found.checks.ok and float(data.accuracy.sel(of="probe")) == 1
    assert float(data.log_strength.sel(of="probe")) > float(data.log_strength.sel(of="control"))
    assert (data.log_strength_low <= data.log_strength_high)[:2].all()
    assert "log_strength" not in ll.probe(model, given, layers=[1], **options).data
    with pytest.raises(InputError, match="too little in the training folds"):
        ll.probe(model, given[:5], strength="cv", **options | {"labels": [0, 1, 0, 1, 0]})
    with pytest.raises(InputError, match="agreed on before"):
        ll.probe(model, given, strength="cv", measure="mdl", **options)
    with pytest.raises(InputError, match="or 'cv'"):
        ll.probe(model, given, strength="auto", **options)
