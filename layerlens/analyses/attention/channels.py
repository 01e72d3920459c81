"""Singular channels of one head, and the tokens that they read and write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.frozen_norm import measure_norm
from layerlens.analyses.contributions.head_matrices import Norm
from layerlens.errors import ModelError
from layerlens.metrics.projections import embeddings
from layerlens.model.sums import is_norm

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ROWS = 8192
"""Rows of the embedding that are looked at together."""

FAINT = 1e-5
"""Share of the largest singular value below which a channel is rounding."""


@dataclass(frozen=True, eq=False)
class Channels:
    """A map ``left @ right`` of small rank as a sum of channels, the strongest first.

    Attributes
    ----------
    out, into
        ``[d_model, channel]`` float64, orthonormal: the map is ``out diag(strength) into^T``.
    strength
        ``[channel]`` singular values.
    """

    out: Tensor
    strength: Tensor
    into: Tensor

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> Channels:
        """Split ``left [d_model, size]`` times ``right [size, d_model]``; no larger product."""
        ql, rl = torch.linalg.qr(left.double())
        qr, rr = torch.linalg.qr(right.double().T)
        u, strength, w = torch.linalg.svd(rl @ rr.T)
        kept = strength > FAINT * strength[0] if strength[0] > 0 else strength > 0
        return cls((ql @ u)[:, kept], strength[kept], (qr @ w.T)[:, kept])

    def __len__(self) -> int:
        return len(self.strength)

    def share(self) -> Tensor:
        """Share of each in the square of the map's Frobenius norm."""
        squares = self.strength.square()
        return squares / squares.sum()

    def turned(self, signs: Tensor) -> Channels:
        """The same channels with both sides multiplied by one or minus one each."""
        return Channels(self.out * signs, self.strength, self.into * signs)

    def off(self, left: Tensor, right: Tensor) -> float:
        """How far the sum of all channels is from the map, as a share of it, on fixed inputs."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(right.shape[1], 8, generator=generator, dtype=torch.float64)
        x = x.to(right.device)
        own = left.double() @ (right.double() @ x)
        summed = self.out @ (self.strength[:, None] * (self.into.T @ x))
        return float((summed - own).norm() / own.norm().clamp(min=1e-30))


def read_scores(
    model: LensModel, norm: str | None, rows: Tensor, tick: Callable[[], None]
) -> Tensor:
    """How strongly each token's embedding is read along directions, ``[direction, token]``.

    Parameters
    ----------
    norm
        Path of the norm that is read through, whose gain is in the directions already; what is
        left of it here is that it makes all embeddings equally long.
    rows
        ``[direction, d_model]``.
    """
    table = embeddings(model)["embed"]
    if table.shape[1] != model.d_model:
        raise ModelError(
            f"{model.name} embeds tokens in {table.shape[1]} numbers and widens them to "
            f"{model.d_model}: which tokens a head reads cannot be told from the table."
        )
    centred = False
    if norm is not None:
        like = table[0].to(model.dtype)
        _, _, centred = measure_norm(model, model.hf.get_submodule(norm), like)
    found = []
    for start in range(0, len(table), ROWS):
        tick()
        states = table[start : start + ROWS].float()
        if norm is not None:
            states = states - states.mean(1, keepdim=True) if centred else states
            size = states.square().mean(1, keepdim=True).sqrt()
            states = states / size.clamp(min=torch.finfo(torch.float32).tiny)
        found.append((states @ rows.T.to(states)).cpu())
    return torch.cat(found).T


def write_scores(model: LensModel, columns: Tensor) -> Tensor:
    """What directions in the last state do to each logit, ``[direction, token]``.

    Through the final norm without its statistics, and measured from the mean over the vocabulary.

    Parameters
    ----------
    columns
        ``[d_model, direction]``.
    """
    head = model.anatomy.head
    assert head is not None  # the caller asked
    for path in head.chain:
        columns = _through(model, path, columns)
    logits = _through(model, head.head, columns * head.scale_in).T
    for operation, value in head.operations:
        if operation == "cap":
            break
        logits = logits * (value if operation == "multiply" else 1 / value)
    return logits - logits.mean(1, keepdim=True)


def _through(model: LensModel, path: str, columns: Tensor) -> Tensor:
    """Columns through a norm without its statistics, or through something affine without offset."""
    module = model.hf.get_submodule(path)
    rows = columns.T.to(model.device, model.dtype)
    if is_norm(module):
        gain, _, centred = measure_norm(model, module, rows[0])
        return Norm(gain, centred).write_through(columns)
    with model.running():
        given: Tensor = module(rows) - module(torch.zeros_like(rows[:1]))
    return given.T.to(columns)
