"""Linear maps between states that texts teach: to the token that was read, and to the next state.

Both are ridge regressions towards the identity: what the texts do not show stays where it is. So at
the embedding of a model that adds nothing to it the map to the token is exact whatever the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.lenses.fitting.affine import PENALTY, AffineMap, Moments, ridge_map
from layerlens.analyses.lenses.fitting.documents import seen
from layerlens.analyses.lenses.readers import moved
from layerlens.errors import MemoryLimitError, ModelError

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.corpus.rows import Row
    from layerlens.model.lensmodel import LensModel

Tick = Callable[[], None]


class InputLens:
    """Reads from a state which token was fed there: the nearest embedding to where a map leads.

    Attributes
    ----------
    matrix
        ``[vocabulary, d_model]`` float32: what the model makes of each token before its blocks,
        without positions.
    """

    def __init__(self, model: LensModel) -> None:
        module = model.hf.get_submodule(model.anatomy.embedding)
        ids = torch.arange(model.d_vocab_in, device=model.device)
        with model.running():
            self.matrix: Tensor = module(ids).float()
        if self.matrix.shape[1] != model.d_model:
            raise ModelError(
                f"The embeddings of {model.name} are {self.matrix.shape[1]} wide and its states "
                f"{model.d_model}, so that no state can be one: leave input_lens out."
            )
        self._half_squares = self.matrix.square().sum(-1) / 2
        self._maps: dict[str, AffineMap] = {}

    def fit(
        self, model: LensModel, rows: Sequence[Row], points: Sequence[Point], limit: int, tick: Tick
    ) -> int:
        """Learn a map at each point, as many at once as the memory allows; returns the passes."""
        parts = within(model, len(points), 1, limit)
        for group in (points[part] for part in parts):
            sums = {point.label: _moments(model) for point in group}
            for found in seen(model, rows, group, 0, tick):
                there = self.matrix[found.token.to(self.matrix.device)]
                for point, state in zip(group, found.states, strict=True):
                    sums[point.label].add(state, there - state.float())
            self._maps |= {label: ridge_map(one, PENALTY) for label, one in sums.items()}
        return len(parts)

    def ranks(self, point: Point, state: Tensor, token: Tensor, rows: int, tick: Tick) -> Tensor:
        """How many embeddings are nearer than that of the token itself, ``[n]`` int64."""
        one = self._maps[point.label]
        there = state.float() + moved(state.float(), one.weight, one.bias)
        parts = []
        for some, own in zip(there.split(rows), token.to(there.device).split(rows), strict=True):
            tick()
            near = some @ self.matrix.T - self._half_squares
            parts.append((near > near.gather(1, own.unsqueeze(1))).sum(-1).cpu())
        return torch.cat(parts)


def turns(
    model: LensModel, rows: Sequence[Row], points: Sequence[Point], limit: int, tick: Tick
) -> tuple[np.ndarray, int]:
    """How far the map from each state to the next one turns: mean angle of its eigenvalues.

    Returns
    -------
    angles
        ``[2, point]`` in radians, NaN at the first point; the second row is the control, in which
        each state is led to that of another token.
    passes
        Over the texts.
    """
    angles = np.full((2, len(points)), np.nan)
    pairs = list(pairwise(range(len(points))))
    parts = within(model, len(pairs), 2, limit)
    random = np.random.default_rng(0)
    for group in (pairs[part] for part in parts):
        sums = {pair: (_moments(model), _moments(model)) for pair in group}
        for found in seen(model, rows, points, 0, tick):
            order = torch.from_numpy(random.permutation(len(found.token)))
            for (before, after), both in sums.items():
                x, y = (found.states[at].float() for at in (before, after))
                for one, there in zip(both, (y, y[order.to(y.device)]), strict=True):
                    one.add(x, there - x)
        for (_, after), both in sums.items():
            for control, one in enumerate(both):
                tick()
                angles[control, after] = _mean_angle(ridge_map(one, PENALTY))
    return angles, len(parts)


def moment_bytes(model: LensModel) -> int:
    """Of the sums that a map is made of."""
    return 2 * 8 * model.d_model**2


def within(model: LensModel, count: int, maps: int, limit: int) -> list[slice]:
    """Parts of `count` things, each as large as the sums of their maps may be held at once.

    Raises
    ------
    MemoryLimitError
        When not even one may be.
    """
    each = maps * moment_bytes(model)
    if limit < each:
        raise MemoryLimitError(
            f"The sums of a map between states need {each / 1e6:.2g} MB and the limit leaves "
            f"{limit / 1e6:.2g} MB: raise memory_limit, or leave input_lens and rotation out."
        )
    step = limit // each
    return [slice(start, start + step) for start in range(0, count, step)]


def _moments(model: LensModel) -> Moments:
    return Moments(model.d_model, products=True, device=model.device)


def _mean_angle(step: AffineMap) -> float:
    """Of the eigenvalues of the identity and what a map adds to it; radians, 0 to pi."""
    assert step.weight is not None
    whole = step.weight.double().cpu()
    whole.diagonal().add_(2)  # `ridge_map` keeps its product less the identity
    return float(torch.linalg.eigvals(whole).angle().abs().mean())
