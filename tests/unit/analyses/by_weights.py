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
    families = {"gpt2": _gpt2, "bert": _bert, "olmo2": _olmo2}
    return families.get(hf.config.model_type, _llama)(hf, layer, head)


def _bert(hf: Any, layer: int, head: int) -> tuple[Tensor, Tensor]:
    attention = hf.bert.encoder.layer[layer].attention
    size = hf.config.hidden_size // hf.config.num_attention_heads
    own = slice(head * size, (head + 1) * size)
    q, k, v = (
        getattr(attention.self, name).weight[own].double() for name in ("query", "key", "value")
    )
    return q.T @ k, attention.output.dense.weight[:, own].double() @ v


def bert_stream(hf: Any, layers: range) -> Tensor:
    """What the norms of some layers make of what a head of the first of them adds."""
    found = torch.eye(hf.config.hidden_size, dtype=torch.float64)
    for layer in layers:
        block = hf.bert.encoder.layer[layer]
        for norm in (block.attention.output.LayerNorm, block.output.LayerNorm):
            found = torch.diag(norm.weight.double()) @ centring(len(found)) @ found
    return found


def _olmo2(hf: Any, layer: int, head: int) -> tuple[Tensor, Tensor]:
    """It norms what a sublayer writes, and all of q and all of k."""
    block = hf.model.layers[layer]
    attention = block.self_attn
    size = attention.head_dim
    own = slice(head * size, (head + 1) * size)
    shared = head // (hf.config.num_attention_heads // hf.config.num_key_value_heads)
    kv = slice(shared * size, (shared + 1) * size)
    q = attention.q_norm.weight[own, None].double() * attention.q_proj.weight[own].double()
    k = attention.k_norm.weight[kv, None].double() * attention.k_proj.weight[kv].double()
    gain = block.post_attention_layernorm.weight.double()[:, None]
    o = gain * attention.o_proj.weight[:, own].double()
    return q.T @ k, o @ attention.v_proj.weight[kv].double()


def latent_ov(hf: Any, layer: int, head: int) -> Tensor:
    """``OV`` of a head whose values are made through a latent (DeepSeek)."""
    block, config = hf.model.layers[layer], hf.config
    attention = block.self_attn
    rank, size = config.kv_lora_rank, config.v_head_dim
    up = attention.kv_b_proj.weight.unflatten(0, (config.num_attention_heads, -1))[head, -size:]
    down = attention.kv_a_proj_with_mqa.weight[:rank] * block.input_layernorm.weight
    v = up.double() @ torch.diag(attention.kv_a_layernorm.weight.double()) @ down.double()
    return attention.o_proj.weight[:, head * size : (head + 1) * size].double() @ v


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
