"""What a lens costs while a model writes: beside ``generate``, and beside plain hooks in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timing import Timer
from torch import Tensor

import layerlens as ll
from layerlens.analyses.lenses.generation_lens import written_points
from layerlens.analyses.lenses.readers import Reader

NEW = 20
TOP_K = 5


def plainly(model: ll.LensModel, ids: Tensor, layers: list[int]) -> Callable[[], object]:
    """``generate``, and at each token the top tokens, entropy, rank and KL at some block outputs.

    Without blocks it is ``generate`` alone.
    """
    paths = [model.anatomy.blocks[layer].path for layer in layers]
    newest: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        newest.append((output if isinstance(output, Tensor) else output[0])[:, -1])

    def reduce(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        if layers:
            logp = model.unembed(torch.cat(newest)).log_softmax(-1)
            newest.clear()
            p = logp.exp()
            written = logp[:, ids[0, -1], None]
            p.topk(TOP_K), (p * logp).sum(-1), (logp > written).sum(-1)
            (p[-1] * (logp[-1] - logp)).sum(-1)
        return torch.zeros(1, dtype=torch.bool)

    def run() -> None:
        hooks = [model.hf.get_submodule(path).register_forward_hook(keep) for path in paths]
        with torch.inference_mode():
            model.generate(model.tokens(ids), NEW, eos_token_id=None, stopping_criteria=[reduce])
        for hook in hooks:
            hook.remove()

    return run


def report_writing(model: ll.LensModel, ids: Tensor, repeats: int) -> None:
    """Measure and print: by the wall clock and by CPU time."""
    layers = [point.layer for point in written_points(model, None, Reader(model))]
    ends, model.hf.generation_config.eos_token_id = model.hf.generation_config.eos_token_id, None
    tokens = model.tokens(ids)
    try:
        for name, base in (
            ("generate", plainly(model, ids, [])),
            ("generate with these rows", plainly(model, ids, layers)),
        ):
            timer = Timer(base, repeats)
            for verify in (0, 2):
                wall, cpu, _ = timer.ratios(
                    lambda verify=verify: ll.generation_lens(
                        model, tokens, max_new_tokens=NEW, verify=verify
                    )
                )
                words = f"generation_lens, verify={verify}, of {name}"
                print(f"{words:60}{wall:7.2f}{cpu:7.2f}")
    finally:
        model.hf.generation_config.eos_token_id = ends
