"""Editing with nothing but transformers and hooks, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

IDS = [5, 17, 3, 44, 8, 60]
OTHER = [9, 2, 71, 44, 30, 12]

#: Family -> site -> path and side of the module where it passes, written from the families' code.
PLACES = {
    "gpt2": {
        "resid_pre": ("transformer.h.{l}", "in"),
        "resid_post": ("transformer.h.{l}", "out"),
        "attn_out": ("transformer.h.{l}.attn", "out"),
        "mlp_out": ("transformer.h.{l}.mlp", "out"),
        "mlp_post": ("transformer.h.{l}.mlp.c_proj", "in"),
        "z": ("transformer.h.{l}.attn.c_proj", "in"),
    },
    "llama": {
        "resid_pre": ("model.layers.{l}", "in"),
        "resid_post": ("model.layers.{l}", "out"),
        "attn_out": ("model.layers.{l}.self_attn", "out"),
        "mlp_out": ("model.layers.{l}.mlp", "out"),
        "mlp_post": ("model.layers.{l}.mlp.down_proj", "in"),
        "z": ("model.layers.{l}.self_attn.o_proj", "in"),
        "v": ("model.layers.{l}.self_attn.v_proj", "out"),
    },
    "gemma2": {
        "resid_pre": ("model.layers.{l}", "in"),
        "resid_post": ("model.layers.{l}", "out"),
        "attn_out": ("model.layers.{l}.post_attention_layernorm", "out"),
        "mlp_out": ("model.layers.{l}.post_feedforward_layernorm", "out"),
        "mlp_post": ("model.layers.{l}.mlp.down_proj", "in"),
        "z": ("model.layers.{l}.self_attn.o_proj", "in"),
        "v": ("model.layers.{l}.self_attn.v_proj", "out"),
    },
    "gpt_neox": {
        "resid_pre": ("gpt_neox.layers.{l}", "in"),
        "resid_post": ("gpt_neox.layers.{l}", "out"),
        "attn_out": ("gpt_neox.layers.{l}.attention", "out"),
        "mlp_out": ("gpt_neox.layers.{l}.mlp", "out"),
        "mlp_post": ("gpt_neox.layers.{l}.mlp.dense_4h_to_h", "in"),
        "z": ("gpt_neox.layers.{l}.attention.dense", "in"),
    },
    "opt": {  # the norms are on the stream: a block's output is normed
        "resid_pre": ("model.decoder.layers.{l}", "in"),
        "resid_post": ("model.decoder.layers.{l}", "out"),
        "attn_out": ("model.decoder.layers.{l}.self_attn", "out"),
        "mlp_out": ("model.decoder.layers.{l}.fc2", "out"),
        "mlp_post": ("model.decoder.layers.{l}.fc2", "in"),
        "z": ("model.decoder.layers.{l}.self_attn.out_proj", "in"),
        "v": ("model.decoder.layers.{l}.self_attn.v_proj", "out"),
    },
}
FAMILIES = list(PLACES)
CASES = [(family, kind) for family, places in PLACES.items() for kind in places]

Alter = Callable[[Tensor], Tensor]


@cache
def tiny(family: str) -> LensModel:
    extra: dict[str, Any] = {"do_layer_norm_before": False} if family == "opt" else {}
    hf = tiny_model(family, seed=3, **extra)
    return LensModel.wrap(hf, None, name=f"tiny {family}", prove=False)


def hook(model: LensModel, kind: str, layer: int, alter: Alter, stack: ExitStack) -> None:
    """Replace what passes at a site by ``alter`` of it; heads are folded into the width."""
    path, side = PLACES[model.anatomy.family][kind]
    module = model.hf.get_submodule(path.format(l=layer))

    def new(old: Tensor) -> Tensor:  # one family folds batch and position into one axis
        return alter(old.clone().reshape(1, -1, old.shape[-1])).reshape(old.shape)

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (new(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": new(kwargs["hidden_states"])}

    def leaving(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (new(output[0]), *output[1:])
        return new(output)

    if side == "in":
        stack.callback(module.register_forward_pre_hook(entering, with_kwargs=True).remove)
    else:
        stack.callback(module.register_forward_hook(leaving).remove)


def logits(model: LensModel, ids: list[int], *alters: tuple[str, int, Alter]) -> Tensor:
    """Logits of the model with hooks, ``[batch, position, vocabulary]``."""
    with ExitStack() as stack, torch.no_grad():
        for kind, layer, alter in alters:
            hook(model, kind, layer, alter, stack)
        return model.hf(torch.tensor([ids]), use_cache=False).logits


def values(model: LensModel, ids: list[int], kind: str, layer: int) -> Tensor:
    """What passes at a site, ``[position, width]``."""
    seen: list[Tensor] = []

    def see(value: Tensor) -> Tensor:
        seen.append(value.clone())
        return value

    logits(model, ids, (kind, layer, see))
    return seen[0].reshape(len(ids), -1)
