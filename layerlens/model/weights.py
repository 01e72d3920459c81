"""Whether the weights of a model are all there, are numbers, and where they are."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from layerlens.errors import ModelError
from layerlens.model.offloaded import offload_hooks


def require_weights(hf: Any, info: dict[str, Any], label: str) -> None:
    """Raise ModelError where a weight got no value from the checkpoint.

    transformers fills such a weight with random numbers and only logs it. ``info`` is its loading
    report, ``label`` what the message calls the model.
    """
    missing = sorted(info["missing_keys"])
    if not missing:
        return
    body = f"{hf.base_model_prefix}."
    if not any(key.startswith(body) for key in missing):
        raise ModelError(
            f"{label} has no language-model head ({missing[0]} is not among its weights), so it "
            "predicts no tokens; give a checkpoint that was saved with its head."
        )
    raise ModelError(
        f"{label} lacks {len(missing):,} of the weights that its config asks for, {missing[0]} "
        "first; get a complete copy."
    )


def is_dense(weight: Tensor) -> bool:
    """Whether a weight is plain floating numbers in memory, one an entry.

    Quantised weights are integers, or tensors of a class of their own (torchao, quanto) that few
    functions can take; offloaded ones are on ``meta``. Those of a model of which the configuration
    alone was read, which have no numbers, count as what they stand for.
    """
    plain = type(weight) in (Tensor, nn.Parameter, FakeTensor) and not weight.is_meta
    return plain and weight.is_floating_point() and weight.element_size() >= 2


def require_finite(hf: Any) -> None:
    """Raise ModelError naming the first parameter that holds NaN or infinity.

    One sum a parameter (about 0.1 s for 135 million weights). Those that are not dense are left
    out. Minus infinity in the head's bias cuts tokens from the vocabulary, and is no fault.
    """
    head = hf.get_output_embeddings() if hasattr(hf, "get_output_embeddings") else None
    bias = getattr(head, "bias", None)
    with torch.inference_mode():
        for where, weight in hf.named_parameters():
            if not is_dense(weight):
                continue
            if bias is not None and weight is bias:
                weight = bias.where(bias != -math.inf, 0)
            total = float(weight.detach().sum(dtype=torch.float32))
            # A sum of large finite numbers can overflow, so a bad sum is only a suspicion.
            if not math.isfinite(total) and not bool(torch.isfinite(weight).all()):
                bad = int((~torch.isfinite(weight)).sum())
                raise ModelError(
                    f"The weight {where} holds {bad:,} values that are NaN or infinite, so nothing "
                    "this model says can be trusted; get a sound copy of its weights."
                )


def require_in_memory(hf: nn.Module) -> None:
    """Raise ModelError naming the first weight that has no numbers and is brought from nowhere."""
    where = lost_weight(hf)
    if where is not None:
        raise ModelError(
            f"The weight {where} has no numbers (it is on the 'meta' device), so "
            f"{type(hf).__name__} cannot be run: load its weights first."
        )


def lost_weight(hf: nn.Module) -> str | None:
    """The first weight that has no numbers and is brought from nowhere; None if there is none.

    accelerate keeps offloaded weights elsewhere and puts them in place while a module runs.
    """
    brought: list[str] = []
    for path, module in hf.named_modules():
        hooks = offload_hooks(module)
        if any(hook.place_submodules for hook in hooks):
            brought.append(f"{path}." if path else "")
        if hooks or any(path.startswith(above) for above in brought):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.is_meta:
                return f"{path}.{name}" if path else name
    return None


def input_embedding(hf: Any) -> Any:
    """The module that embeds tokens; None where the model says that it has none."""
    with suppress(NotImplementedError, AttributeError):  # plain modules have no such method
        return hf.get_input_embeddings()
    return None


def input_device(hf: Any) -> torch.device:
    """Return the device on which token ids have to be."""
    embedding = input_embedding(hf)
    if embedding is None:
        device: torch.device = hf.device
        return device
    for hook in offload_hooks(embedding):
        return torch.device(hook.execution_device)
    weight = next(embedding.parameters(), None)
    placed: torch.device = hf.device if weight is None else weight.device
    return placed
