"""How many heads each block has, and how its attention can be watched."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerlens.model.anatomy import Anatomy, BlockAnatomy
from layerlens.model.conventions import ONE_PASS, TOKEN_IDS
from layerlens.model.find import fed_rows, probe_ids, text_config
from layerlens.model.watch import first_tensor
from layerlens.model.weights import input_device
from layerlens.run.attention import INSIDE, Watch, watching
from layerlens.run.gate import Gate
from layerlens.run.spy import spy_on


def find_attention(hf: PreTrainedModel, anatomy: Anatomy) -> Anatomy:
    """Complete an anatomy with its heads.

    The attention interface is tried first; blocks whose attention does not use it, or does
    something else when it is not one of transformers' own implementations, are watched by
    a spy; what neither shows has no softmax attention. A block that calls its attention
    more than once in a pass (differential attention) has no one pattern either.
    """
    ids = probe_ids(fed_rows(hf)).to(input_device(hf))
    by_interface = _shapes(hf, anatomy, ids, interface=True)
    by_spy: list[dict[str, torch.Size]] = [{} for _ in anatomy.blocks]
    if not all(map(_complete, by_interface)):
        by_spy = _shapes(hf, anatomy, ids, interface=False)
    blocks = []
    for block, shapes, spied in zip(anatomy.blocks, by_interface, by_spy, strict=True):
        if _complete(shapes):
            blocks.append(_with_heads(block, "interface", shapes))
        elif _complete(spied):
            blocks.append(_with_heads(block, "spy", spied))
        else:
            taps = {kind: tap for kind, tap in block.taps.items() if kind != "z"}
            blocks.append(replace(block, taps=taps, out_proj=None))
    return replace(anatomy, blocks=tuple(blocks))


def _complete(shapes: dict[str, torch.Size]) -> bool:
    return shapes.keys() >= {"q", "k", "v", "pattern"}


def _with_heads(block: BlockAnatomy, how: str, shapes: dict[str, torch.Size]) -> BlockAnatomy:
    return replace(block, attention=how, n_heads=shapes["q"][2], n_kv_heads=shapes["k"][2])


def _shapes(
    hf: PreTrainedModel, anatomy: Anatomy, ids: Tensor, *, interface: bool
) -> list[dict[str, torch.Size]]:
    """Shapes of what each block's attention handed over in one small pass."""
    plain = first_tensor(hf(**{TOKEN_IDS: ids}, **ONE_PASS))
    seen: list[dict[str, torch.Size]] = [{} for _ in anatomy.blocks]
    calls = Counter[int]()
    n_heads = getattr(text_config(hf), "num_attention_heads", 1)
    length = ids.shape[-1]

    def see(layer: int, kind: str, tensor: Tensor) -> None:
        square = kind not in ("pattern", "attn_scores") or tensor.shape[-2:] == (length, length)
        calls[layer] += kind == "q"
        if tensor.dim() == 4 and square:
            seen[layer][kind] = tensor.shape

    with ExitStack() as stack:
        for layer, block in enumerate(anatomy.blocks):
            if block.mixer is None:
                continue
            watch = Watch(INSIDE, partial(see, layer))
            if interface:
                stack.enter_context(watching(hf.get_submodule(block.mixer), watch))
            else:
                module = hf.get_submodule(block.mixer)
                spy_on(module, watch, n_heads, Gate(), stack)
        watched = hf(**{TOKEN_IDS: ids}, **ONE_PASS)
    if not torch.equal(first_tensor(watched), plain):
        return [{} for _ in anatomy.blocks]
    return [shapes if calls[layer] == 1 else {} for layer, shapes in enumerate(seen)]
