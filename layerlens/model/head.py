"""Find what leads from the last block to the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerlens.errors import ModelError
from layerlens.model.anatomy import HeadAnatomy
from layerlens.model.evidence import logit_error
from layerlens.model.families import LOGIT_OPERATIONS
from layerlens.model.sums import close, is_norm
from layerlens.model.watch import Call


def find_head(
    hf: PreTrainedModel, config: Any, calls: Sequence[Call], last: Call, logits: Tensor | None
) -> HeadAnatomy | None:
    """Find the chain of modules after the last block, the head, and what follows it.

    The head is the model's output embedding where a chain of modules leads up to it, else
    the smallest module around it for which that holds (heads that are more than one
    linear map, with plain functions inside).

    Parameters
    ----------
    calls, last
        The watched calls, and that of the last block.
    logits
        ``[1, position, vocabulary]`` of the same pass, or None.

    Returns
    -------
    HeadAnatomy or None
        None for a model without a language-model head.

    Raises
    ------
    ModelError
        If there is a head but what leads to it, or what follows it, is not understood.
    """
    module = hf.get_output_embeddings()
    if module is None or logits is None:
        return None
    name = next(path for path, member in hf.named_modules() if member is module)
    after = [call for call in calls if call.entered > last.left]
    heads = list(_candidates(name, after))
    if not heads:
        return None
    for head in heads:
        if (led := _lead(after, head, last.gave)) is None:
            continue
        chain, scale = led
        given = head.gave.to(logits.dtype)
        operations = _operations(
            config, given, logits.reshape(-1, logits.shape[-1]), head.gave.dtype
        )
        if operations is None:
            raise ModelError(
                f"{type(hf).__name__} cannot be read: its logits are not its head's output, "
                "nor that output scaled or soft-capped as its configuration says."
            )
        norm = next((call.path for call in chain if is_norm(call.module)), None)
        if sum(call.path == norm for call in calls) != 1:  # a norm that is used elsewhere too
            norm = None
        paths = tuple(call.path for call in chain)
        widens = logits.dtype != head.gave.dtype
        return HeadAnatomy(paths, head.path, scale, operations, norm, widens)
    raise ModelError(
        f"{type(hf).__name__} cannot be read: what stands between its last block and "
        f"its head ({name}) is not a chain of modules."
    )


def _candidates(name: str, after: Sequence[Call]) -> Iterator[Call]:
    """Yield the output embedding and the modules around it, from the inside out."""
    while name:
        found = [call for call in after if call.path == name]
        if len(found) == 1 and found[0].took.numel() and found[0].gave.numel():
            yield found[0]
        name = name.rpartition(".")[0]


def _lead(after: Sequence[Call], head: Call, current: Tensor) -> tuple[list[Call], float] | None:
    """Return the modules from the last block to the head, and a scale on what they give."""
    chain, current = _chain(after, head, current)
    if torch.equal(current, head.took):
        return chain, 1.0
    if current.shape != head.took.shape:
        return None
    scale = float((head.took.double().sum() / current.double().sum()).item())
    return (chain, scale) if close(current * scale, head.took, current.dtype) else None


def _chain(after: Sequence[Call], head: Call, current: Tensor) -> tuple[list[Call], Tensor]:
    """Follow the modules that lead from the last block to the head."""
    chain: list[Call] = []
    while not torch.equal(current, head.took):
        steps = [
            call
            for call in after
            if call.gave.numel()
            and call.alone
            and not head.path.startswith(call.path + ".")
            and call.path != head.path
            and torch.equal(call.took, current)
            and call not in chain
        ]
        if not steps:
            break
        step = min(steps, key=lambda call: (call.path.count("."), call.entered))
        chain.append(step)
        current = step.gave
    return chain, current


def _operations(
    config: Any, z: Tensor, logits: Tensor, dtype: torch.dtype
) -> tuple[tuple[str, float], ...] | None:
    """Find what the model does to its head's output, from its configuration and the numbers."""
    set_values = [
        (operation, float(value))
        for name, operation in LOGIT_OPERATIONS
        if isinstance(value := getattr(config, name, None), (int, float))
    ]
    allowed = 16 * torch.finfo(dtype).eps
    for operations in ([], set_values, *[[one] for one in set_values]):
        if logit_error(apply(operations, z).float(), logits.float()) <= allowed:
            return tuple(operations)
    return None


def apply(operations: Sequence[tuple[str, float]], z: Tensor) -> Tensor:
    """Apply ``multiply``, ``divide`` and ``cap`` operations to logits, in order."""
    for operation, value in operations:
        if operation == "multiply":
            z = z * value
        elif operation == "divide":
            z = z / value
        else:
            z = torch.tanh(z / value) * value
    return z
