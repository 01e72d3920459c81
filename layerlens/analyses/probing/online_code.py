"""How short labels can be sent to someone who has the states: effort, and not only accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
LEAST = 32
"""Labels that are sent without a probe at least."""
FLOOR = 1e-6
"""Smallest probability that a probe is taken to give a label."""


def compression(
    states: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    make: Callable[[], Any],
    classes: Sequence[Any],
) -> float:
    """Length of the labels by themselves over that with a probe, sent block by block.

    The online code of Voita and Titov (2020), Information-Theoretic Probing with Minimum
    Description Length, arXiv 2003.12298: the first block is sent as it is, each further one with
    the probabilities of a probe that was fitted on those before. 1 for labels that the states say
    nothing of, or a little less.

    Parameters
    ----------
    states, labels
        ``[n, d]`` and ``[n]``.
    order
        ``[n]``: in which they are sent.
    make
        Gives a new probe, with ``predict_proba``.
    classes
        All labels that there are.
    """
    states, labels = states[order], labels[order]
    total, count = len(labels), len(classes)
    least = max(count, min(LEAST, total // 2))
    ends = sorted({max(least, round(part * total)) for part in FRACTIONS})
    bits = ends[0] * np.log2(count)
    for start, stop in pairwise(ends):
        taught = labels[:start]
        if len(np.unique(taught)) < 2:
            bits += (stop - start) * np.log2(count)
            continue
        probe = make().fit(states[:start], taught)
        given = probe.predict_proba(states[start:stop])
        known = {label: place for place, label in enumerate(probe.classes_)}
        own = [given[i, known[label]] if label in known else FLOOR
               for i, label in enumerate(labels[start:stop])]  # fmt: skip
        bits -= float(np.log2(np.maximum(own, FLOOR)).sum())
    return float(total * np.log2(count) / max(bits, 1e-9))
