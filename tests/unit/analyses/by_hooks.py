"""Plain PyTorch hooks on plain transformers models: what analyses are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .copies import copy_of

FAMILIES = ("gpt2", "llama", "gpt_neox")
"""Fused q, k, v and learned positions; grouped key-value heads; parallel sublayers."""

IDS = [5, 17, 20, 3, 90, 41]
OTHER = [5, 17, 33, 3, 64, 41]

Change = Callable[[Tensor], Tensor]
Hook = tuple[nn.Module, str, Change]
"""Module, ``in`` or ``out``, and what becomes of the tensor there (a copy)."""


@cache
def _built(family: str) -> LensModel:
    return LensModel.wrap(tiny_model(family, seed=1), None, name=family, prove=False)


def wrapped(family: str) -> LensModel:
    """A tiny random model for the analysis."""
    return copy_of(_built(family))


def plain(family: str) -> PreTrainedModel:
    """The same model for plain hooks, with attention that takes any mask."""
    hf = wrapped(family).hf
    hf.set_attn_implementation("eager")
    return hf


def embedding(hf: PreTrainedModel) -> nn.Module:
    """The token embedding."""
    return hf.get_input_embeddings()


def blocks(hf: PreTrainedModel) -> list[Any]:
    """The blocks, in order."""
    kind = hf.config.model_type
    inner = {"gpt2": "transformer.h", "llama": "model.layers", "gpt_neox": "gpt_neox.layers"}[kind]
    return list(hf.get_submodule(inner))


def part(hf: PreTrainedModel, layer: int, name: str) -> nn.Module:
    """``attn``, ``mlp``, ``z`` (read at its input) or ``neurons`` (at its input) of a layer."""
    names = {
        "gpt2": {"attn": "attn", "mlp": "mlp", "z": "attn.c_proj", "neurons": "mlp.c_proj"},
        "llama": {
            "attn": "self_attn",
            "mlp": "mlp",
            "z": "self_attn.o_proj",
            "neurons": "mlp.down_proj",
        },
        "gpt_neox": {
            "attn": "attention",
            "mlp": "mlp",
            "z": "attention.dense",
            "neurons": "mlp.dense_4h_to_h",
        },
    }[hf.config.model_type]
    return blocks(hf)[layer].get_submodule(names[name])


def projections(hf: PreTrainedModel, layer: int) -> list[nn.Module]:
    """The modules whose outputs are q, k and v before any rotation."""
    attention = part(hf, layer, "attn")
    names = {
        "gpt2": ("c_attn",),
        "llama": ("q_proj", "k_proj", "v_proj"),
        "gpt_neox": ("query_key_value",),
    }[hf.config.model_type]
    return [attention.get_submodule(name) for name in names]


def vector(hf: PreTrainedModel, layer: int, head: int, which: str) -> tuple[nn.Module, slice]:
    """Where one head's q, k or v is: a module, and columns of its output."""
    size = hf.config.hidden_size // hf.config.num_attention_heads
    place = "qkv".index(which)
    modules = projections(hf, layer)
    if hf.config.model_type == "gpt2":
        start = place * hf.config.hidden_size + head * size
    elif hf.config.model_type == "llama":
        return modules[place], slice(head * size, (head + 1) * size)
    else:
        start = (3 * head + place) * size
    return modules[0], slice(start, start + size)


def head_columns(hf: PreTrainedModel, head: int) -> slice:
    """Columns of one head in the input of the output projection."""
    size = hf.config.hidden_size // hf.config.num_attention_heads
    return slice(head * size, (head + 1) * size)


def first(value: Any) -> Tensor:
    """The tensor that a module gives."""
    return value[0] if isinstance(value, tuple) else value


def run(hf: PreTrainedModel, ids: list[int], hooks: Iterable[Hook] = ()) -> Tensor:
    """Logits [vocabulary] at the last position, with these hooks."""
    handles = []
    for module, side, change in hooks:
        if side == "in":

            def entering(_: Any, args: Any, change: Change = change) -> Any:
                return (change(args[0].clone()), *args[1:])

            handles.append(module.register_forward_pre_hook(entering))
        else:

            def leaving(_: Any, args: Any, output: Any, change: Change = change) -> Any:
                new = change(first(output).clone())
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handles.append(module.register_forward_hook(leaving))
    try:
        with torch.no_grad():
            logits: Tensor = hf(torch.tensor([ids])).logits[0, -1]
        return logits
    finally:
        for handle in handles:
            handle.remove()


def kept(hf: PreTrainedModel, ids: list[int], places: Iterable[tuple[nn.Module, str]]) -> Any:
    """What passes at some places: ``(module, side)`` to ``[1, position, width]``."""
    found: dict[tuple[nn.Module, str], Tensor] = {}

    def keep(place: tuple[nn.Module, str]) -> Change:
        def keeping(value: Tensor) -> Tensor:
            found[place] = value.clone()
            return value

        return keeping

    places = list(places)
    run(hf, ids, [(*place, keep(place)) for place in places])
    return found


def putting(new: Tensor, columns: Any = slice(None), positions: Any = slice(None)) -> Change:
    """Put ``new`` ``[position, width]`` in place of some columns at some positions."""

    def change(value: Tensor) -> Tensor:
        old = value[0, positions]
        old[:, columns] = new
        value[0, positions] = old
        return value

    return change


def probability(logits: Tensor, token: int) -> float:
    """Probability of a token."""
    return float(logits.double().softmax(-1)[token])
