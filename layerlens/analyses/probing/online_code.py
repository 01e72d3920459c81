"""How short labels can be sent to someone who has the states: effort, and not only accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.learner import Lesson
from layerlens.analyses.probing.readers import probabilities

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
LEAST = 32
"""Labels that are sent without a probe at least."""
ORDERS = 3
"""Orders in which labels are sent."""
FLOOR = 1e-6
"""Smallest probability that a probe is taken to give a label."""


def compression(
    states: np.ndarray,
    task: Task,
    seed: int,
    learn: Callable[[np.ndarray, Sequence[Lesson]], Sequence[Any]],
) -> float:
    """Length of the labels by themselves over that with a probe, sent block by block.

    The online code of Voita and Titov (2020), Information-Theoretic Probing with Minimum
    Description Length, arXiv 2003.12298: the first block is sent as it is, each further one with
    the probabilities of a probe that was fitted on those before. 1 for labels that the states say
    nothing of, or a little less. Mean over three orders.

    Parameters
    ----------
    states
        ``[n, d]`` float32.
    task
        Their labels.
    seed
        Of the orders.
    learn
        Gives a reader with ``predict_proba`` for each lesson.
    """
    total, count = len(task.labels), len(task.classes)
    least = max(count, min(LEAST, total // 2))
    ends = sorted({max(least, round(part * total)) for part in FRACTIONS})
    orders = [np.random.default_rng((seed, number)).permutation(total) for number in range(ORDERS)]
    lessons = [Lesson(task, np.isin(np.arange(total), order[:start]))
               for order in orders for start in ends[:-1]]  # fmt: skip
    readers = iter(learn(states, lessons))
    found = []
    for order in orders:
        bits = ends[0] * np.log2(count)
        for start, stop in pairwise(ends):
            sent, reader = order[start:stop], next(readers)
            if len(reader.classes_) < 2:  # one class so far: it says nothing of the others
                bits += len(sent) * np.log2(count)
                continue
            given = probabilities(reader, states[sent], count)
            own = given[np.arange(len(sent)), task.labels[sent]]
            bits -= float(np.log2(np.maximum(own, FLOOR)).sum())
        found.append(total * np.log2(count) / max(bits, 1e-9))
    return float(np.mean(found))
