"""Which word another one belongs to, read from attention by one weight for each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

STEPS, SLOPE = 500, 1e-4

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arcs:
    """Words whose head is asked for, each with all other words of its text to choose among.

    Attributes
    ----------
    features
        ``[arc, candidate, feature]`` float32; 0 beyond the candidates of an arc.
    real
        ``[arc, candidate]`` bool.
    offset
        ``[arc, candidate]``: how many words to the right a candidate stands.
    wanted
        ``[arc]``: place of the head among the candidates.
    text
        ``[arc]``: number of the text.
    """

    features: NDArray[np.float32]
    real: NDArray[np.bool_]
    offset: NDArray[np.int64]
    wanted: NDArray[np.int64]
    text: NDArray[np.int64]


def arcs_of(attention: Sequence[np.ndarray], arcs: Sequence[Sequence[tuple[int, int]]]) -> Arcs:
    """Features of each candidate: what the word gives it, and what it gives the word.

    Parameters
    ----------
    attention
        Of each text ``[map, word, word]``.
    arcs
        Of each text, pairs of a word and its head. A word is no candidate for itself.
    """
    total, most = sum(map(len, arcs)), max(own.shape[-1] for own in attention) - 1
    maps = attention[0].shape[0]
    made = Arcs(
        np.zeros((total, most, 2 * maps), np.float32), np.zeros((total, most), bool),
        np.zeros((total, most), np.int64), np.zeros(total, np.int64), np.zeros(total, np.int64),
    )  # fmt: skip
    row = 0
    for number, (own, pairs) in enumerate(zip(attention, arcs, strict=True)):
        for word, head in pairs:
            others = np.delete(np.arange(own.shape[-1]), word)
            made.features[row, : len(others), :maps] = own[:, word, others].T
            made.features[row, : len(others), maps:] = own[:, others, word].T
            made.real[row, : len(others)] = True
            made.offset[row, : len(others)] = others - word
            made.wanted[row] = int(np.flatnonzero(others == head)[0])
            made.text[row] = number
            row += 1
    return made


def fitted(
    features: np.ndarray, real: np.ndarray, wanted: np.ndarray, strength: float
) -> tuple[Floats, float]:
    """One weight for each feature, ``p(candidate) ~ exp(w . features)``, and the slope left.

    Minimised is the cross-entropy, summed over arcs, and half the squared weights over `strength`.
    """
    flat = features.reshape(-1, features.shape[-1])
    one_hot = np.eye(features.shape[1])[wanted]

    def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
        scores = (flat @ weight.astype(np.float32)).reshape(real.shape).astype(np.float64)
        said = log_softmax(np.where(real, scores, -1e30), axis=1)
        off = (np.where(real, np.exp(said), 0) - one_hot).astype(np.float32)
        slope = off.ravel() @ flat + weight / strength
        value = -(said * one_hot).sum() + (weight**2).sum() / (2 * strength)
        return value / len(wanted), slope.astype(np.float64) / len(wanted)

    found = minimize(loss, np.zeros(features.shape[-1]), jac=True, method="L-BFGS-B",
                     options={"maxiter": STEPS, "gtol": SLOPE, "ftol": 0})  # fmt: skip
    return found.x, float(np.abs(found.jac).max())


def told(scores: np.ndarray, real: np.ndarray, wanted: np.ndarray) -> Floats:
    """1 where the largest score is that of the head; shared where several are as large."""
    masked = np.where(real, scores, -np.inf)
    best = masked >= masked.max(1, keepdims=True)
    right: Floats = best[np.arange(len(wanted)), wanted] / best.sum(1)
    return right
