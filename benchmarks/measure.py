"""The models, the matrix products of a call and the rivals: what the benchmarks share."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import layerlens as ll


def gpt2_shape() -> ll.LensModel:
    """GPT-2 small with random weights: no download, the same work."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return ll.load(GPT2LMHeadModel(GPT2Config()).eval(), name="GPT-2 small shape, random weights")


def tiny() -> ll.LensModel:
    """Three narrow blocks with random weights, to see that a benchmark runs: no time it takes
    means anything."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=400)
    config.bos_token_id = config.eos_token_id = None
    return ll.load(GPT2LMHeadModel(config).eval(), name="tiny GPT-2, random weights")


def rivals(*names: str) -> list[str]:
    """Those of some packages that are installed; says which are not."""
    found = [name for name in names if importlib.util.find_spec(name) is not None]
    for name in [name for name in names if name not in found]:
        print(f"{name} is not installed here, so it takes no part: pip install '.[rivals]'")
    return found


class Products(TorchDispatchMode):
    """The matrix products of a call: how many multiply-adds they take, and the same once more.

    Attention is left out where it is one fused kernel.
    """

    KINDS = tuple(getattr(torch.ops.aten, name) for name in ("linear", "mm", "addmm", "bmm"))

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self._calls: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._given: dict[torch.Size, torch.Tensor] = {}
        with self:
            work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in self.KINDS:
            if func.overloadpacket is torch.ops.aten.linear:
                left, right = args[0], args[1].mT
            else:
                left, right = args[-2:]
            given = self._given.setdefault(left.shape, torch.rand_like(left))
            self._calls.append((given, right))
        return func(*args, **(kwargs or {}))

    @property
    def multiply_adds(self) -> int:
        """Of all products."""
        return sum(left.numel() * right.shape[-1] for left, right in self._calls)

    def again(self) -> None:
        """Nothing but these products, with the same weights in the same order."""
        with torch.inference_mode():
            for left, right in self._calls:
                left @ right


def bridge(model: ll.LensModel) -> Any:
    """TransformerLens' view of the same weights; it rebuilds what it gets, so it gets a copy."""
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = model.tokenizer or ll.load("toy:induction").tokenizer  # it insists on one
    with tempfile.TemporaryDirectory() as folder:
        model.hf.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(
            folder, hf_model=copy.deepcopy(model.hf), tokenizer=tokenizer
        )
