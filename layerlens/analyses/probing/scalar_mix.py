"""The scalar mix: one linear classifier of a weighted mean of layers, whose weights it learns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from layerlens.analyses.probing.states import Points

STEPS = 1000
"""Most steps of the solver."""
SLOPE = 1e-4
"""Largest slope of the mean loss, by parameter, at which it stops."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Mix:
    """What was learned of ``l`` layers.

    Attributes
    ----------
    share
        ``[l]``, which sum to 1: the softmax of the weights of layers.
    plane, bias
        ``[1 or class, d]`` and ``[1 or class]``: the classifier of the mixed state; one row, for
        the second class, where there are two.
    slope
        Largest slope of the mean loss where the solver stopped.
    """

    share: NDArray[np.float64]
    plane: NDArray[np.float64]
    bias: NDArray[np.float64]
    slope: float

    @property
    def gamma(self) -> float:
        """The scale of the mix in front of a classifier whose weights have length 1."""
        return float(np.linalg.norm(self.plane))

    def predict(self, layers: Floats) -> NDArray[np.int64]:
        """Number of the class ``[n]`` of states ``[l, n, d]``."""
        scores = _mixed(self.share, layers) @ self.plane.T + self.bias
        best: NDArray[np.int64] = _both(scores).argmax(1)
        return best


class Scale:
    """Subtracts a mean and divides by a deviation, feature by feature and layer by layer.

    Without it the layer with the largest states has the largest weight, whatever it holds.

    Parameters
    ----------
    states
        Of each layer ``[n, d]``.
    taught
        ``[n]`` bool: the examples that means and deviations are taken of.
    """

    def __init__(self, states: Points, taught: np.ndarray) -> None:
        own = [states[place][taught] for place in range(len(states))]
        self.means = [layer.mean(0, dtype=np.float64).astype(np.float32) for layer in own]
        wide = [layer.std(0, dtype=np.float64) for layer in own]
        self.deviations = [np.where(one > 0, one, 1).astype(np.float32) for one in wide]

    def of(self, states: Points, chosen: np.ndarray, memory_limit: int) -> np.ndarray:
        """The chosen examples ``[l, n, d]`` float32, in a file where they are larger than that."""
        shape = (len(states), int(chosen.sum()), states[0].shape[1])
        made = _array(shape, memory_limit)
        for place, layer in enumerate(states):
            np.subtract(layer[chosen], self.means[place], out=made[place])
            made[place] /= self.deviations[place]
        return made


def mixed(
    layers: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
    *,
    learn: bool = True,
    slope: float = SLOPE,
    tick: Callable[[], None] = lambda: None,
) -> Mix:
    """Learn a scalar mix and its classifier together, by L-BFGS over all examples at once.

    ``x = gamma * sum_l softmax(w)_l h_l`` (Peters et al., 2018, Deep contextualized word
    representations, arXiv 1802.05365), and ``x`` is told apart by a logistic regression. The loss
    is that of scikit-learn's: the sum of cross-entropies, and half the squared weights of the
    classifier over `strength`. A scale in front of a classifier changes nothing that the classifier
    cannot: ``gamma`` is its length. The weights ``w`` begin at 0.

    Parameters
    ----------
    layers
        ``[l, n, d]`` float32, of one scale.
    labels
        ``[n]`` from 0.
    classes
        How many there are.
    strength
        The larger, the less the classifier is held small.
    learn
        Whether the weights of layers are learned, or stay equal.
    slope
        Where the solver stops; see `SLOPE`.
    tick
        Called at each step.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> labels = np.arange(40) % 2
    >>> layers = random.normal(size=(3, 40, 4)).astype(np.float32)
    >>> layers[1, :, 0] += 4 * labels
    >>> int(mixed(layers, labels, 2, 1.0).share.argmax())
    1
    """
    count, examples, width = layers.shape
    rows = 1 if classes == 2 else classes
    one_hot = np.eye(classes)[labels]
    held = 0 if learn else count
    flat = layers.reshape(count, -1)
    even = np.full(count, 1 / count)
    blend = None if learn else _mixed(even, layers)

    def loss(given: np.ndarray) -> tuple[float, np.ndarray]:
        tick()
        share = softmax(given[:count]) if learn else even
        plane = given[count - held : -rows].reshape(rows, width)
        x = _mixed(share, layers) if blend is None else blend
        said = log_softmax(_both(x @ plane.T + given[-rows:]), axis=1)
        off = (np.exp(said) - one_hot)[:, classes - rows :]
        by_plane = off.T @ x + plane / strength
        value = -(said * one_hot).sum() + (plane**2).sum() / (2 * strength)
        parts = [by_plane.ravel(), off.sum(0)]
        if learn:
            by_share = flat @ (off @ plane).astype(np.float32).ravel()
            parts.insert(0, share * (by_share - share @ by_share))
        return value / examples, np.concatenate(parts).astype(np.float64) / examples

    start = np.zeros(count - held + rows * (width + 1))
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B",
        options={"maxiter": STEPS, "gtol": slope, "ftol": 0},
    )  # fmt: skip
    share = softmax(found.x[:count]) if learn else even
    plane = found.x[count - held : -rows].reshape(rows, width)
    return Mix(share, plane, found.x[-rows:], float(np.abs(found.jac).max()))


def _mixed(share: np.ndarray, layers: np.ndarray) -> np.ndarray:
    flat = layers.reshape(len(layers), -1)
    whole: np.ndarray = share.astype(np.float32) @ flat
    return whole.reshape(layers.shape[1:]).astype(np.float64)


def _both(scores: np.ndarray) -> np.ndarray:
    """Scores of all classes: the first of two has 0."""
    return np.concatenate([0 * scores, scores], 1) if scores.shape[1] == 1 else scores


def _array(shape: tuple[int, ...], memory_limit: int) -> np.ndarray:
    if 4 * int(np.prod(shape)) <= memory_limit:
        return np.empty(shape, np.float32)
    return np.memmap(tempfile.TemporaryFile(prefix="layerlens-"), np.float32, "w+", shape=shape)
