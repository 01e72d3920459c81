"""Run metrics on tiny models, by our engine and with plain hooks; what must hold for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerlens.metrics.base import Arrays
from layerlens.metrics.batch import Numbered, split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma2")
"""Sequential, learnt positions, parallel, norms after the sublayers."""

TEXTS = [[5, 6, 7, 8, 9, 11, 13], [3, 4, 5, 3], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [17, 3, 29]]


@cache
def tiny(family: str) -> LensModel:
    """One model a family, shared by the tests, which leave it as it was."""
    return LensModel.wrap(tiny_model(family, seed=1), None, name=f"tiny {family}", prove=False)


def gather(
    model: LensModel, names: str | Sequence[str], batches: Sequence[Numbered], **how: Any
) -> MetricSet:
    """Metrics that have seen these batches."""
    metrics = MetricSet.make(model, names, **how)
    run_metrics(model, batches, metrics)
    return metrics


def measure(
    model: LensModel,
    names: str | Sequence[str],
    texts: Sequence[Sequence[int]] = TEXTS,
    *,
    size: int | None = None,
    padding_side: str = "right",
    **how: Any,
) -> Arrays:
    """Values of metrics over texts, ``size`` of them in a pass; ``how`` as `MetricSet.make`."""
    tokens = model.tokens([list(text) for text in texts], padding_side=padding_side)
    return gather(model, names, split(tokens, size), **how).values()


def states(model: LensModel, text: Sequence[int]) -> list[Tensor]:
    """``h_0 .. h_L`` of one text, [position, d_model] each, by hooks of PyTorch alone."""
    blocks = [model.hf.get_submodule(block.path) for block in model.anatomy.blocks]
    found: list[Tensor] = []
    handles = [blocks[0].register_forward_pre_hook(_keep_input(found), with_kwargs=True)]
    handles += [block.register_forward_hook(_keep_output(found)) for block in blocks]
    try:
        with torch.inference_mode():
            model.hf(torch.tensor([list(text)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _keep_input(found: list[Tensor]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    return hook


def _keep_output(found: list[Tensor]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    return hook


def assert_same(mine: Arrays, theirs: Arrays, rtol: float = 1e-12, atol: float = 1e-12) -> None:
    """Two sets of values are the same."""
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_allclose(array, theirs[name], rtol=rtol, atol=atol, err_msg=name)


def assert_padding_is_nothing(model: LensModel, names: str | Sequence[str], **how: Any) -> None:
    """Texts one by one, and together with padding on either side, give the same."""
    alone = measure(model, names, size=1, **how)
    for side in ("right", "left"):
        together = measure(model, names, size=len(TEXTS), padding_side=side, **how)
        # Other shapes make the model's own float32 products round differently.
        assert_same(alone, together, rtol=1e-4, atol=1e-5)


def assert_merged_is_single(model: LensModel, names: str | Sequence[str], **how: Any) -> None:
    """Two that saw half of the texts each, one of them stored in between, equal one."""
    batches = split(model.tokens(TEXTS), 1)
    single = gather(model, names, batches, **how)
    first = gather(model, names, batches[2:], **how)
    second = MetricSet.from_state(*gather(model, names, batches[:2], **how).state())
    first.merge(second)
    assert_same(first.values(), single.values())
    assert (first.texts, first.tokens, first.kept) == (single.texts, single.tokens, single.kept)
    empty = single.empty()
    empty.merge(single)
    assert_same(empty.values(), single.values())


def planted(width: int, blocks: Sequence[Callable[[Tensor], Tensor]], vocab: int = 40) -> LensModel:
    """A model of the GPT-2 class whose blocks do what the given functions say.

    The embedding is random. Only the block as a whole is replaced, so only ``pre`` and ``post``
    may be read.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=len(blocks),
        n_head=1,
        n_embd=width,
        n_inner=4,
        n_positions=64,
        vocab_size=vocab,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        hf.transformer.wte.weight.normal_()
        hf.transformer.wpe.weight.zero_()
    model = LensModel.wrap(hf, None, name="planted", prove=False)
    for block, does in zip(hf.transformer.h, blocks, strict=True):
        block.register_forward_hook(lambda _, args, output, does=does: does(args[0]))
    return model


def identity(model: LensModel, layer: int) -> None:
    """Make a block of a tiny Llama write nothing."""
    block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
