"""A model as it is looked at: in ``eval`` mode, uncompiled, its embedding free of gradients."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerlens.model.weights import input_embedding


@contextmanager
def settled(hf: nn.Module) -> Iterator[None]:
    """Let a model, or a part, run so that its parts can be seen; put back exactly what was there.

    Every module is in ``eval`` mode. What was compiled runs as plain modules: compiled code calls
    no inner module, so nothing in it could be read or edited. An embedding that was made to ask
    for gradients (``enable_input_require_grads``) does not where none are recorded.
    """
    modules = list(hf.modules())
    training = [module for module in modules if module.training]
    with ExitStack() as stack:
        if _compiled(modules):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        embedding = input_embedding(hf) if isinstance(hf, PreTrainedModel) else None
        if embedding is not None and embedding._forward_hooks:
            stack.callback(embedding.register_forward_hook(_without_gradients).remove)
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


def uncompiled(module: Any) -> Any:
    """The module in the wrapper that ``torch.compile(module)`` makes, else the module itself."""
    inner: Any = module
    return inner._orig_mod if isinstance(module, _wrapper()) else module


def _wrapper() -> tuple[type, ...]:
    # Nothing was compiled where the compiler, which is slow to import, was never imported.
    dynamo = sys.modules.get("torch._dynamo")
    return (dynamo.OptimizedModule,) if dynamo else ()


def _compiled(modules: Sequence[nn.Module]) -> bool:
    wrapper = _wrapper()
    return bool(wrapper) and any(
        module._compiled_call_impl is not None or isinstance(module, wrapper) for module in modules
    )


def _without_gradients(module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, Tensor) and output.requires_grad and not torch.is_grad_enabled():
        return output.detach()
    return None
