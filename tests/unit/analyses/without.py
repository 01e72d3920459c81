"""What plain transformers models give when blocks or sublayers are left out, by plain hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import by_hooks

TEXTS = [[5, 17, 20, 3, 90, 41, 8], [9, 30, 71, 2], [4, 4, 8, 15, 16]]
FAMILIES = by_hooks.FAMILIES


def first(value: Any) -> Tensor:
    """The tensor that a module gave."""
    found: Tensor = value[0] if isinstance(value, tuple) else value
    return found


def _instead(new: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """A hook that puts ``new(input, output)`` in place of a module's output."""

    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        changed = new(given, first(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def run(
    hf: PreTrainedModel,
    ids: Sequence[int],
    blocks: Sequence[int] = (),
    parts: Sequence[tuple[int, str]] = (),
) -> tuple[list[Tensor], Tensor]:
    """States before each block and after the last ``[T, d]``, and logits ``[T, V]``.

    ``blocks`` give what they were given, ``parts`` (layer, ``attn`` or ``mlp``) give zeros.
    """
    every = by_hooks.blocks(hf)
    states: list[Tensor] = []
    with ExitStack() as stack, torch.inference_mode():

        def add(module: nn.Module, hook: Callable[..., Any]) -> None:
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)

        for layer, name in parts:
            add(by_hooks.part(hf, layer, name), _instead(lambda _, out: torch.zeros_like(out)))
        for layer in blocks:
            add(every[layer], _instead(lambda given, _: given))
        for block in every:

            def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
                states.append((args[0] if args else kwargs["hidden_states"])[0].clone())

            stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)

        def last(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            states.append(first(output)[0].clone())

        add(every[-1], last)
        logits = hf(torch.tensor([list(ids)]), use_cache=False).logits[0]
    return states, logits.double()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL of the first logits' prediction from the second's, a position each."""
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def loss(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Minus the log probability of each next token, ``[T - 1]``."""
    return -logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:]).unsqueeze(1))[:, 0]


def silence(hf: PreTrainedModel, layer: int, names: Sequence[str] = ("attn", "mlp")) -> None:
    """Let sublayers write nothing: every weight of their last projection is zero."""
    ends = {"attn": "z", "mlp": "neurons"}
    with torch.no_grad():
        for name in names:
            for weight in by_hooks.part(hf, layer, ends[name]).parameters():
                weight.zero_()
