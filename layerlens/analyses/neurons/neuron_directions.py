"""What neurons read and write, as rows of weights, and the tokens that such rows mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.head_matrices import Norm
from layerlens.analyses.contributions.token_scores import require_linear, through_final_norm
from layerlens.errors import InputError, ModelError
from layerlens.metrics.projections import projections
from layerlens.model.sums import is_norm
from layerlens.run.forward import through_scales
from layerlens.run.norms import measure_norm

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

DIRECTIONS = {"output": "down", "input": "up", "gate": "gate"}
"""Which weight holds each direction."""
WITHOUT_NORM = "norm='none' leaves it out"
"""What a person can do where norms cannot be gone through."""
ROWS = 256
"""Neurons whose logits are held together."""
BLOCK = 128
"""Tokens in a block of the search for the largest and the smallest."""


def neuron_rows(model: LensModel, layer: int, direction: str) -> Tensor:
    """The direction of each neuron of a layer, ``[neuron, d_model]`` float32.

    Raises
    ------
    InputError
        The layer has no such weight, or it cannot be read as numbers.
    """
    parts = {part.name: part for part in projections(model, layer)}
    name = DIRECTIONS[direction]
    if name not in parts:
        why = "its MLP is made of experts" if f"experts.{name}" in parts else "it has none"
        raise InputError(
            f"Layer {layer} of {model.name} has no weight '{name}' for direction={direction!r}: "
            f"{why}; choose other layers, or another direction."
        )
    weight = parts[name].weights[0]
    rows = weight.T if direction == "output" else weight
    if rows.shape[1] != model.d_model:
        raise InputError(
            f"Neurons of layer {layer} are {rows.shape[1]} numbers wide and the stream "
            f"{model.d_model}: the head cannot decode them."
        )
    return rows.float()


def through_norms(model: LensModel, layer: int, direction: str, rows: Tensor) -> Tensor:
    """Rows as the head is given them: gains of the norms on the way, without their statistics."""
    tap = model.anatomy.blocks[layer].taps.get("mlp_out")
    columns = rows.T
    if direction == "output" and tap is not None:
        module = model.hf.get_submodule(tap.module)
        if is_norm(module):
            like = torch.ones(model.d_model, dtype=model.dtype, device=model.device)
            gain, _, centred = measure_norm(model, module, like)
            columns = Norm(gain, centred).write_through(columns)
        columns = through_scales(model, tap, columns.T).T
    return through_final_norm(model, columns, WITHOUT_NORM).T


def require_norms(model: LensModel, norm: str) -> None:
    """Refuse ``norm="gamma"`` where what leads to the logits is no norm; runs no pass.

    Raises
    ------
    ModelError
        It is not linear.
    """
    if norm == "gamma":
        require_linear(model, WITHOUT_NORM)


def token_rows(model: LensModel) -> Tensor:
    """The head's row of each token, ``[token, d]`` float32, scale included.

    Raises
    ------
    ModelError
        The head is not one matrix of numbers, or it reads more than one state.
    """
    matrix = model.head_matrix()
    if matrix is not None and matrix.weight.shape[1] != model.d_model:
        raise ModelError(
            f"The head of {model.name} reads {matrix.weight.shape[1]} numbers, made of several "
            f"states of {model.d_model}, so that what a neuron writes has no logit of its own: "
            "ask for models whose head reads one state."
        )
    if matrix is None:
        raise ModelError(
            f"The head of {model.name} is not one plain matrix, so that neurons have no tokens: "
            "load it in float32 or bfloat16, without an adapter on the head."
        )
    weight = matrix.weight.detach().float()
    return weight if matrix.scale == 1 else weight * matrix.scale


class TokenScores:
    """Scores of all tokens for directions: ``direction @ weight.T``, measured some way.

    Parameters
    ----------
    weight
        ``[token, d]`` float32.
    rank
        ``"logit"``: as it is; ``"cosine"``: of unit vectors; ``"zscore"``: each token's logit in
        standard deviations over the neurons ``rows``, from their mean.
    rows
        ``[neuron, d]``: the neurons of one layer; only for ``"zscore"``.
    """

    def __init__(self, weight: Tensor, rank: str, rows: Tensor | None = None) -> None:
        self.rank, self.bias = rank, None
        if rank == "cosine":
            weight = torch.nn.functional.normalize(weight, dim=1)
        elif rank == "zscore":
            assert rows is not None  # that is what it is measured over
            mean = rows.mean(0)
            apart = (rows - mean).T @ (rows - mean) / len(rows)
            spread = _quadratic(weight, apart).sqrt().clamp_min(1e-12)
            weight, self.bias = weight / spread[:, None], -(weight @ mean) / spread
        self.weight = weight
        bias = weight.new_zeros(len(weight)) if self.bias is None else self.bias
        across = (weight.T @ bias / len(weight))[:, None]
        square = bias.square().mean().view(1, 1)
        second = torch.cat(
            [
                torch.cat([weight.T @ weight / len(weight), across], 1),
                torch.cat([across.T, square], 1),
            ]
        )
        self._mean = torch.cat([weight.mean(0), bias.mean().view(1)])
        self._apart = second - torch.outer(self._mean, self._mean)

    def taken(self, rows: Tensor) -> Tensor:
        """Directions as they are multiplied with the tokens' rows."""
        return torch.nn.functional.normalize(rows, dim=1) if self.rank == "cosine" else rows

    def of(self, rows: Tensor, tokens: list[int]) -> Tensor:
        """Scores ``[direction, token]`` of some tokens."""
        bias = 0 if self.bias is None else self.bias[tokens]
        return self.taken(rows) @ self.weight[tokens].T + bias

    def over_tokens(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each direction's scores over the vocabulary."""
        taken = self.taken(rows)
        whole = torch.cat([taken, taken.new_ones(len(taken), 1)], 1)
        return whole @ self._mean, _quadratic(whole, self._apart).sqrt().clamp_min(1e-12)

    def ends(self, rows: Tensor, k: int, tick: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """The tokens with the largest scores and those with the smallest.

        Returns
        -------
        tuple of Tensor
            Tokens and scores ``[direction, 2, k]``: largest first, then smallest first.
        """
        size = len(self.weight)
        width = -(-size // BLOCK) * BLOCK
        buffer = rows.new_empty(min(ROWS, len(rows)), width)
        tokens, scores = [], []
        for start in range(0, len(rows), ROWS):
            tick()
            taken = self.taken(rows[start : start + ROWS])
            logits = buffer[: len(taken)]
            torch.mm(taken, self.weight.T, out=logits[:, :size])
            if self.bias is not None:
                logits[:, :size] += self.bias
            found = [_end(logits, size, k, largest) for largest in (True, False)]
            scores.append(torch.stack([values for values, _ in found], 1).cpu())
            tokens.append(torch.stack([columns for _, columns in found], 1).cpu())
        return torch.cat(tokens), torch.cat(scores)


def _end(logits: Tensor, size: int, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The k largest or smallest of the first ``size`` columns: they lie in the k best blocks."""
    logits[:, size:] = -torch.inf if largest else torch.inf
    blocks = logits.view(len(logits), -1, BLOCK)
    best = blocks.amax(-1) if largest else blocks.amin(-1)
    if k >= best.shape[1]:
        whole = torch.topk(logits, k, largest=largest)
        return whole.values, whole.indices
    chosen = torch.topk(best, k, largest=largest).indices
    inside = blocks.gather(1, chosen.unsqueeze(-1).expand(-1, -1, BLOCK)).flatten(1)
    found = torch.topk(inside, k, largest=largest)
    block = chosen.gather(1, found.indices // BLOCK)
    return found.values, block * BLOCK + found.indices % BLOCK


def _quadratic(rows: Tensor, matrix: Tensor) -> Tensor:
    """``x @ matrix @ x`` of each row, not below 0."""
    parts = [torch.linalg.vecdot(part @ matrix, part) for part in rows.split(4096)]
    return torch.cat(parts).clamp_min(0)
