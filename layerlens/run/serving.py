"""What is done where a remote model is: functions that travel with a request.

They are shipped by their source (nnsight), with the functions and classes that they name, so that
nothing of layerlens has to be installed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerlens.model.head import apply
from layerlens.model.watch import first_tensor, stream_argument, swapped, with_tensor
from layerlens.run.changes import Change
from layerlens.run.hooks import plain_rows


@dataclass(frozen=True)
class Step:
    """What is done with one tensor as it passes.

    Attributes
    ----------
    path, side
        The module, and ``"input"`` or ``"output"``.
    scale
        What the tensor is multiplied with to become the value.
    heads
        Into how many heads the value is split; 0 for none.
    changes
        What is changed there, in this order.
    name
        What the value is called, after the changes; "" where it is not kept.
    since
        The value is the sum of this one, which passed before, and the tensor; "" for the tensor
        alone.
    """

    path: str
    side: str
    scale: float = 1.0
    heads: int = 0
    changes: tuple[Change, ...] = ()
    name: str = ""
    since: str = ""


@dataclass(frozen=True)
class HeadPath:
    """How states become logits: modules, scales, and what is done to the product."""

    chain: tuple[str, ...]
    head: str
    scale_in: float
    operations: tuple[tuple[str, float], ...]
    widens: bool


def walk(nn: Any, steps: Sequence[Step], batch: int) -> dict[str, Tensor]:
    """Read and change tensors of one pass, in the order in which they pass.

    Parameters
    ----------
    nn
        nnsight's model, inside a trace.
    batch
        Rows of the input; some modules fold them into the positions.

    Returns
    -------
    dict of str to Tensor
        ``[batch, position, ...]`` of each name.
    """
    found: dict[str, Tensor] = {}
    for step in steps:
        envoy = nn.get(step.path)
        args, kwargs = envoy.inputs if step.side == "input" else ((), {})
        given = None if step.side == "input" else envoy.output
        old = stream_argument(args, kwargs) if step.side == "input" else first_tensor(given)
        own = old if old.dim() > 2 else old.unflatten(0, (batch, -1))
        value = own * step.scale if step.scale != 1 else own
        value = value.unflatten(-1, (step.heads, -1)) if step.heads else value
        whole = value + found[step.since] if step.since else value
        if step.changes:
            new = changed(whole, step.changes)
            back = own + (new - whole) / step.scale if step.since else new.reshape(own.shape)
            back = back if step.since or step.scale == 1 else back / step.scale
            back = back.reshape(old.shape).to(old.dtype)
            if step.side == "input":
                envoy.inputs = swapped(args, kwargs, old, back)
            else:
                envoy.output = with_tensor(given, old, back)
            whole = new
        if step.name:
            found[step.name] = whole.detach().clone()
    return found


def changed(value: Tensor, changes: Sequence[Change]) -> Tensor:
    """A changed copy of ``[batch, position, ...]``."""
    new = value.clone()
    batch, length = new.shape[:2]
    for change in changes:
        rows = plain_rows(change, batch, length).to(new.device)
        change.write(new, (rows // length, rows % length), batch if change.row is None else 1)
    return new


def kept(found: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Those that are wanted, in memory."""
    return {name: found[name].cpu() for name in names}


def head_input(nn: Any, head: HeadPath, states: Tensor) -> Tensor:
    """What the head is given for states ``[n, d_model]``; final norm of each row by itself."""
    for path in head.chain:
        states = nn.get(path)(states)
    return states if head.scale_in == 1 else states * head.scale_in


def logits_of(nn: Any, head: HeadPath, given: Tensor) -> Tensor:
    """Float32 logits ``[n, vocabulary]`` of what the head is given."""
    made = nn.get(head.head)(given)
    return apply(head.operations, made.float() if head.widens else made).float()


def answers(nn: Any, head: HeadPath, states: Tensor, tokens: Sequence[int] | None) -> Tensor:
    """Logits ``[n, token]`` of states: of some tokens, or of all."""
    placed = states.to(next(iter(nn.get(head.head).parameters())).device)
    with torch.no_grad():
        logits = logits_of(nn, head, head_input(nn, head, placed)).cpu()
    return logits if tokens is None else logits[:, list(tokens)]


def reduce_rows(
    nn: Any, head: HeadPath, states: Sequence[Tensor], chosen: Tensor, top_k: int, memory: int
) -> list[dict[str, Tensor]]:
    """What a lens keeps of each point, the last of which is the model's own answer.

    Parameters
    ----------
    states
        ``[n, d_model]`` of each point.
    chosen
        ``[n, m]`` tokens whose logit and rank are wanted.
    top_k
        How many of the largest logits to keep.
    memory
        Bytes of logits and what is made of them, about six times as many, that are held at once.

    Returns
    -------
    list of dict
        ``top_ids`` and ``top_logits`` ``[n, k]``, ``log_norm``, ``entropy``, ``kl`` to the last
        point and ``own``, how many logits are above that of the last point's answer, ``[n]``;
        ``chosen`` and ``above`` ``[n, m]``.
    """
    with torch.no_grad():
        rows = [head_input(nn, head, state) for state in states]
        size = max(1, memory // (24 * logits_of(nn, head, rows[-1][:1]).shape[-1]))
        parts: list[list[dict[str, Tensor]]] = [[] for _ in rows]
        for start in range(0, len(rows[-1]), size):
            here = slice(start, start + size)
            final = logits_of(nn, head, rows[-1][here])
            for part, row in zip(parts, rows, strict=True):
                logits = logits_of(nn, head, row[here])
                part.append(_statistics(logits, final, chosen[here].to(logits.device), top_k))
        return [
            {name: torch.cat([piece[name] for piece in part]).cpu() for name in part[0]}
            for part in parts
        ]


def _statistics(logits: Tensor, final: Tensor, chosen: Tensor, top_k: int) -> dict[str, Tensor]:
    """What is kept of some rows of logits."""
    norm = logits.logsumexp(-1)
    log_p = logits - norm.unsqueeze(-1)
    log_q = final.log_softmax(-1)
    best = logits.topk(top_k)
    wanted = logits.gather(1, chosen)
    answer = logits.gather(1, final.argmax(-1, keepdim=True))
    return {
        "top_ids": best.indices,
        "top_logits": best.values,
        "log_norm": norm,
        "entropy": torch.special.entr(log_p.exp()).sum(-1),
        "kl": torch.where(log_q > -torch.inf, log_q.exp() * (log_q - log_p), 0.0).sum(-1),
        "own": (logits > answer).sum(-1),
        "chosen": wanted,
        "above": torch.stack([(logits > w).sum(-1) for w in wanted.split(1, -1)], -1),
    }
