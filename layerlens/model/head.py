"""Find what leads from the last block to the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerlens.errors import ModelError
from layerlens.model.anatomy import HeadAnatomy, Pool
from layerlens.model.evidence import logit_error
from layerlens.model.families import LOGIT_OPERATIONS
from layerlens.model.sums import close, is_norm
from layerlens.model.watch import Call


def find_head(
    hf: PreTrainedModel, config: Any, calls: Sequence[Call], last: Call, logits: Tensor | None
) -> HeadAnatomy | None:
    """Find the chain of modules after the last block, the head, and what follows it.

    The head is the model's output embedding where a chain of modules leads up to it, else the
    module that gives the logits, else the smallest module around it for which that holds (heads
    that are more than one linear map, with plain functions inside). On the way the positions of
    an input may be pooled into one.

    Parameters
    ----------
    calls, last
        The watched calls, and that of the last block.
    logits
        ``[1, position, vocabulary]`` of the same pass, ``[1, class]`` of a head that reads all
        positions as one, or None.

    Returns
    -------
    HeadAnatomy or None
        None for a model without a head that gives logits, and for a classifier whose head is not
        understood: all but what needs it can be asked.

    Raises
    ------
    ModelError
        If there is a head but what leads to it, or what follows it, is not understood.
    """
    if logits is None:
        return None
    after = [call for call in calls if call.entered > last.left]
    name = _named(hf, after, logits)
    heads = list(_candidates(name, after))
    if not heads:
        return None
    rows = logits.reshape(-1, logits.shape[-1])
    for head in heads:
        if (led := _lead(after, head, last.gave)) is None:
            continue
        given, pool = _pooled_after(head, rows, led)
        if given is None:
            continue
        offset = _offset(hf, given, rows)
        added = given if offset is None else given + hf.get_buffer(offset).reshape(-1)
        operations = _operations(config, added.to(logits.dtype), rows, head.gave.dtype)
        if operations is None:
            raise ModelError(
                f"{type(hf).__name__} cannot be read: its logits are not its head's output, "
                "nor that output scaled or soft-capped as its configuration says."
            )
        norm = next((call.path for call in led.chain if is_norm(call.module)), None)
        if sum(call.path == norm for call in calls) != 1:  # a norm that is used elsewhere too
            norm = None
        paths = tuple(call.path for call in led.chain)
        widens = logits.dtype != head.gave.dtype
        return HeadAnatomy(paths, head.path, led.scale, operations, norm, widens, pool, offset)
    if hf.get_output_embeddings() is None:
        return None
    raise ModelError(
        f"{type(hf).__name__} cannot be read: what stands between its last block and "
        f"its head ({name}) is not a chain of modules."
    )


def _named(hf: PreTrainedModel, after: Sequence[Call], logits: Tensor) -> str:
    """Path of the output embedding, else of the innermost module that gives the logits."""
    module: nn.Module | None = hf.get_output_embeddings()
    if module is not None:
        names: dict[int, str] = {id(member): path for path, member in hf.named_modules()}
        return names[id(module)]
    rows = logits.reshape(-1, logits.shape[-1])
    giving = [
        call
        for call in after
        if call.gave.shape[-1:] == rows.shape[-1:]
        and any(value.shape == rows.shape and close(value, rows, rows.dtype)
                for _, value in _poolings(call.gave))
        and list(call.module.parameters())
    ]  # fmt: skip
    return max(giving, key=lambda call: call.path.count(".")).path if giving else ""


def _candidates(name: str, after: Sequence[Call]) -> Iterator[Call]:
    """Yield the output embedding and the modules around it, from the inside out."""
    while name:
        found = [call for call in after if call.path == name]
        if len(found) == 1 and found[0].took.numel() and found[0].gave.numel():
            yield found[0]
        name = name.rpartition(".")[0]


@dataclass(frozen=True)
class _Lead:
    """What leads from the last block to a head."""

    chain: list[Call]
    scale: float = 1.0
    pool: Pool | None = None


def _lead(after: Sequence[Call], head: Call, current: Tensor) -> _Lead | None:
    """Return the modules from the last block to the head, and a scale on what they give."""
    rows = len(current)
    chain, current, pool = _chain(after, head, current)
    if pool is None and len(current) != rows:  # more or fewer answers than positions
        return None
    if torch.equal(current, head.took):
        return _Lead(chain, 1.0, pool)
    if current.shape != head.took.shape:
        return None
    along = current.double()
    scale = float(((head.took.double() * along).sum() / (along * along).sum()).item())
    fits = close(current * scale, head.took, current.dtype)
    return _Lead(chain, scale, pool) if fits else None


def _chain(
    after: Sequence[Call], head: Call, current: Tensor
) -> tuple[list[Call], Tensor, Pool | None]:
    """Follow the modules that lead from the last block to the head."""
    chain: list[Call] = []
    pool: Pool | None = None
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
        if steps:
            step = min(steps, key=lambda call: (call.path.count("."), call.entered))
            if pool is None and len(step.gave) < len(step.took):
                pool = _within(step, len(chain))
            chain.append(step)
            current = step.gave
        elif pool is None and (found := _pooling(after, head, current)) is not None:
            way, current = found
            pool = replace(way, at=len(chain))
        else:
            break
    return chain, current, pool


def _poolings(rows: Tensor) -> Iterator[tuple[Pool | None, Tensor]]:
    """The ways in which models make one row of all positions' rows, and none of them first."""
    yield None, rows
    if len(rows) == 1:
        return
    ways = [Pool("first", 0, 0), Pool("last", 0, -1), Pool("mean", 0)]
    ways += [Pool("mean of the first two", 0)]
    for how in ("mean of the rest", "first and mean of the rest"):
        ways += [Pool(how, 0, skipped=skipped) for skipped in range(1, min(9, len(rows)))]
    yield from ((pool, pooled(pool, rows)) for pool in ways)


def pooled(pool: Pool, rows: Tensor) -> Tensor:
    """``[..., 1, width]``: one row of the rows of all positions, ``[..., position, width]``."""
    if pool.how == "first":
        return rows[..., :1, :]
    if pool.how == "last":
        return rows[..., -1:, :]
    if pool.how == "mean":
        return rows.mean(-2, keepdim=True)
    if pool.how == "mean of the first two":
        return (rows[..., :1, :] + rows[..., 1:2, :]) / 2
    rest = rows[..., pool.skipped :, :].mean(-2, keepdim=True)
    return rest if pool.how == "mean of the rest" else torch.cat([rows[..., :1, :], rest], -1)


def _pooling(after: Sequence[Call], head: Call, rows: Tensor) -> tuple[Pool, Tensor] | None:
    """How the model's own code pools rows before it calls the next module, and what that takes."""
    taken = [call.took for call in after if call.took.shape[:1] == (1,)]
    for took in (head.took, *taken):
        for pool, value in _poolings(rows):
            if pool and took.shape == value.shape and close(value, took, rows.dtype):
                return pool, took
    return None


def _within(call: Call, at: int) -> Pool:
    """A module that pools: the one position that it reads is the one that alone makes a change."""
    rows = call.took[None]
    for position in (0, -1):
        others = 2 * rows.flip(-1)
        others[:, position] = rows[:, position]
        if torch.equal(answering(call.module, others), answering(call.module, rows)):
            return Pool("within", at, position)
    return Pool("within", at)


def _pooled_after(head: Call, logits: Tensor, led: _Lead) -> tuple[Tensor | None, Pool | None]:
    """What becomes the logits of what the head gives, which may be pooled there."""
    pool, steps = led.pool, len(led.chain)
    if pool is None and len(head.gave) < len(head.took):
        return head.gave, _within(head, steps)
    if head.gave.shape == logits.shape:
        return head.gave, pool
    for way, value in _poolings(head.gave):
        if way and value.shape == logits.shape and close(value, logits, head.gave.dtype):
            return value, replace(way, at=steps + 1)
    return None, None


def _offset(hf: PreTrainedModel, given: Tensor, logits: Tensor) -> str | None:
    """Name of a buffer that the model adds to its head's output."""
    for name, value in hf.named_buffers():
        if value.numel() == logits.shape[-1] and value.is_floating_point():
            added = given + value.reshape(-1)
            if not torch.equal(added, given) and close(added, logits, given.dtype):
                return name
    return None


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


def answering(module: nn.Module, rows: Tensor) -> Tensor:
    """What a module that pools makes of ``[batch, position, width]``: ``[batch, 1, width]``."""
    given: Tensor = module(rows)
    return given.reshape(len(rows), 1, -1)
