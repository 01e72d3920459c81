"""The tokens along a direction: whose embeddings are read by it, whose logits it raises.

Norms count without their statistics: what is left of one is its gain, and that it makes all
states equally long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.frozen_norm import Affine
from layerlens.analyses.contributions.head_matrices import Norm
from layerlens.errors import ModelError
from layerlens.metrics.projections import embeddings
from layerlens.model.linear import adds_up, is_plain
from layerlens.model.sums import is_norm
from layerlens.run.norms import measure_norm

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ROWS = 8192
"""Rows of the embedding that are looked at together."""
WHOLE_STATES = "ll.logit_lens decodes whole states through it"
"""What a person can do where directions have no tokens."""


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

    Raises
    ------
    ModelError
        What leads to the logits is not linear.
    """
    head = model.anatomy.head
    assert head is not None  # the caller asked
    logits = _through(model, head.head, through_final_norm(model, columns)).T
    for operation, value in head.operations:
        if operation == "cap":
            break
        logits = logits * (value if operation == "multiply" else 1 / value)
    return logits - logits.mean(1, keepdim=True)


def through_final_norm(model: LensModel, columns: Tensor, instead: str = WHOLE_STATES) -> Tensor:
    """Directions in the last state as the head is given them, norms without their statistics.

    Parameters
    ----------
    columns
        ``[d_model, direction]``.
    instead
        What a person can do where it is refused.

    Raises
    ------
    ModelError
        What leads to the logits is not linear.
    """
    head = model.anatomy.head
    assert head is not None  # the caller asked
    require_linear(model, instead)
    for path in head.chain:
        columns = _through(model, path, columns)
    return columns * head.scale_in


def bends(model: LensModel) -> str | None:
    """Path of what stands between the last state and the logits and is not linear, if anything.

    Norms count as linear, since their statistics are left out; a transform before the head (as in
    BERT) or inside it (as in RoBERTa) does not: through it a direction means one thing in one
    state and another in the next. Found by what a module makes of random inputs.
    """
    head = model.anatomy.head
    assert head is not None  # the caller asked
    state = torch.ones(1, model.d_model, dtype=model.dtype, device=model.device)
    with model.running():
        for path in (*head.chain, head.head):
            module = model.hf.get_submodule(path)
            if not (is_norm(module) or is_plain(module) or adds_up(module, state)):
                return path
            if path != head.head:
                state = module(state)
    return None


def require_linear(model: LensModel, instead: str) -> None:
    """Refuse a model in which a direction in the last state has no tokens of its own.

    Parameters
    ----------
    instead
        What a person can do.

    Raises
    ------
    ModelError
        What leads to the logits is not linear.
    """
    if path := bends(model):
        raise ModelError(
            f"{path} of {model.name} leads from the last state to the logits and is not linear, so "
            f"that a direction has no tokens of its own there: {instead}."
        )


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


def final_direction(model: LensModel, weights: Tensor) -> Tensor:
    """Directions in the last state along which combinations of logits grow.

    Gradients have to be recorded.

    Parameters
    ----------
    weights
        ``[n, vocabulary]`` float64: the weight of each token's logit.

    Returns
    -------
    Tensor
        ``[n, d_model]`` float64 on the CPU.

    Raises
    ------
    ModelError
        What leads to the logits is not linear.
    """
    head = model.anatomy.head
    assert head is not None  # the caller asked
    require_linear(model, WHOLE_STATES)
    state = torch.ones(model.d_model, dtype=model.dtype, device=model.device)
    states = []
    for path in head.chain:
        states.append(state)
        with model.running():
            state = model.hf.get_submodule(path)(state.unsqueeze(0))[0]
    for operation, value in head.operations:
        if operation == "cap":
            break
        weights = weights * (value if operation == "multiply" else 1 / value)
    found = Affine(model, model.hf.get_submodule(head.head), state).pull(weights) * head.scale_in
    for path, given in reversed(list(zip(head.chain, states, strict=True))):
        module = model.hf.get_submodule(path)
        if is_norm(module):
            gain, _, centred = measure_norm(model, module, given)
            found = Norm(gain, centred).read_through(found)
        else:
            found = Affine(model, module, given).pull(found)
    return found
