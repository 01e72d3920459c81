"""Logistic regressions together: scikit-learn's, one by one, and the gradient by its formula."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.learner import Learner, Lesson
from layerlens.analyses.probing.logistic import TOLERANCE
from layerlens.analyses.probing.solved import left_over


@pytest.mark.parametrize("classes", [2, 4])
def test_each_is_the_one_that_scikit_learn_finds(classes: int) -> None:
    random = np.random.default_rng(classes)
    states = random.normal(size=(300, 8)).astype(np.float32)
    states[:, 0] = 3000 + states[:, 0]  # a massive activation
    states[:, 1] = 5.0  # and one that never changes
    noisy = states[:, 2:] @ random.normal(size=(6, classes)) + random.gumbel(size=(300, classes))
    task = Task(noisy.argmax(1), np.arange(300), False, tuple(range(classes)))
    blind = Task(random.permutation(task.labels), task.unit, False, task.classes)
    lessons = [Lesson(one, random.random(300) < 0.7) for one in (task, blind, task)]
    # one that lacks a class, and one that has a single one
    lessons.append(Lesson(task, (task.labels != classes - 1)))
    lessons.append(Lesson(task, task.labels == 0))
    strengths = [1.0, 0.01, 100.0, 1.0, 1.0]
    found = Learner("linear", 0).learn(states, lessons, strengths)
    for lesson, strength, reader in zip(lessons, strengths, found, strict=True):
        if len(np.unique(lesson.labels)) < 2:
            assert (reader.predict(states) == lesson.labels[0]).all()
            continue
        exact = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
        ).fit(states[lesson.taught].astype(np.float64), lesson.labels)
        known = exact.predict_proba(states.astype(np.float64))
        np.testing.assert_array_equal(reader.classes_, exact.classes_)
        np.testing.assert_allclose(reader.predict_proba(states), known, atol=3e-3)


def test_a_plane_that_is_not_the_lowest_is_seen() -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(200, 5)).astype(np.float32) * 7 + 2
    task = Task((states[:, 0] > 3).astype(int), np.arange(200), False, (0, 1))
    (reader,) = Learner("linear", 0).learn(states, [Lesson(task, np.ones(200, bool))], [1.0])
    assert 0 < (left_over(states, task, reader, 1.0) or 0) < 1.1 * TOLERANCE
    reader.coef_[0, 0] *= 1.05
    assert (left_over(states, task, reader, 1.0) or 0) > 2 * TOLERANCE
