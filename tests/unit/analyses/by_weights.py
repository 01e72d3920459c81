"""Maps of heads from the weights of single families, as their code uses them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def centring(width: int) -> Tensor:
    """The matrix that takes the mean off."""
    return torch.eye(width, dtype=torch.float64) - 1 / width


def head_maps(hf: Any, layer: int, head: int) -> tuple[Tensor, Tensor]:
    """``QK`` and ``OV`` of a head, ``[d_model, d_model]`` float64, with the norms' gains in them.

    A query ``x`` and a key ``y`` score ``x QK y``; what the head writes for ``x`` is ``OV x``.
    """
    kind = hf.config.model_type
    return _gpt2(hf, layer, head) if kind == "gpt2" else _llama(hf, layer, head)


def _gpt2(hf: Any, layer: int, head: int) -> tuple[Tensor, Tensor]:
    block = hf.transformer.h[layer]
    d = hf.config.n_embd
    size = d // hf.config.n_head
    before = torch.diag(block.ln_1.weight.double()) @ centring(d)
    own = slice(head * size, (head + 1) * size)
    q, k, v = (part[:, own].double().T @ before for part in block.attn.c_attn.weight.split(d, 1))
    return q.T @ k, block.attn.c_proj.weight[own].double().T @ v


def _llama(hf: Any, layer: int, head: int) -> tuple[Tensor, Tensor]:
    """Llama, Qwen 3 and Gemma 2."""
    block, config = hf.model.layers[layer], hf.config
    gemma = config.model_type == "gemma2"
    attention = block.self_attn
    size = attention.head_dim

    def gain(norm: Any) -> Tensor:
        return norm.weight.double() + gemma

    def rows(weight: Tensor, number: int) -> Tensor:
        return weight[number * size : (number + 1) * size].double()

    shared = head // (config.num_attention_heads // config.num_key_value_heads)
    before = torch.diag(gain(block.input_layernorm))
    q = rows(attention.q_proj.weight, head) @ before
    k = rows(attention.k_proj.weight, shared) @ before
    v = rows(attention.v_proj.weight, shared) @ before
    if hasattr(attention, "q_norm"):
        q, k = gain(attention.q_norm)[:, None] * q, gain(attention.k_norm)[:, None] * k
    o = attention.o_proj.weight[:, head * size : (head + 1) * size].double()
    if gemma:
        o = gain(block.post_attention_layernorm)[:, None] * o
    return q.T @ k, o @ v
