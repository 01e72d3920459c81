"""Gradient times input by hand, lxt and captum on the model that attribution.py has, alone.

    python benchmarks/attribution_rivals.py lxt --tokens 64 --repeats 3

Needs torch, transformers and the rival, nothing of layerlens: attribution.py runs this by any
interpreter. Prints one line of JSON: median CPU seconds of the bare forward and of the rival and
the peak memory of its first call on the text in MB, or null where the rival is not installed. lxt
changes the classes of a model for good, so the bare forward has its turns before it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from timing import Timer, peak_above
from transformers import LlamaConfig, LlamaForCausalLM

STEP_BY_STEP = "captum, step by step"
RIVALS = {"by hand": "torch", "lxt": "lxt", "captum": "captum", STEP_BY_STEP: "captum"}
"""Packages they need. captum takes all steps side by side if left alone; layerlens takes as many as
its memory limit allows, which is between the two."""


def shape(smoke: bool) -> LlamaForCausalLM:
    """SmolLM2-135M's shape with random weights (or a tiny one), of which no parameter learns."""
    torch.manual_seed(0)
    sizes = (3, 32, 48, 4, 2, 400) if smoke else (30, 576, 1536, 9, 3, 49152)
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
             "num_key_value_heads", "vocab_size")  # fmt: skip
    config = LlamaConfig(
        **dict(zip(names, sizes, strict=True)),
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        rope_theta=100_000.0,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def text(hf: Any, length: int) -> torch.Tensor:
    """Random tokens, ``[1, position]``."""
    random = torch.Generator().manual_seed(1)
    return torch.randint(3, hf.config.vocab_size, (1, length), generator=random)


def bare(hf: Any, ids: torch.Tensor) -> None:
    """The forward that everything is measured by: its answer alone, no cache."""
    with torch.inference_mode():
        hf(input_ids=ids, use_cache=False, logits_to_keep=1)


def by_gradient(hf: Any, ids: torch.Tensor) -> torch.Tensor:
    """State times derivative of the likeliest next token's logit, ``[position]``."""
    state = hf.get_input_embeddings()(ids).requires_grad_()
    logits = hf(inputs_embeds=state, use_cache=False, logits_to_keep=1).logits
    (slope,) = torch.autograd.grad(logits[0, -1].max(), state)
    return (state * slope)[0].sum(-1)


def by_captum(hf: Any, ids: torch.Tensor, steps: int, rows: int) -> torch.Tensor:
    """Integrated gradients from the mean embedding; the first token keeps its own."""
    from captum.attr import IntegratedGradients

    with torch.no_grad():
        state = hf.get_input_embeddings()(ids)
        answer = int(hf(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].argmax())
    start = state.clone()
    start[:, 1:] = state[:, 1:].mean(1, keepdim=True)

    def logit(given: torch.Tensor) -> torch.Tensor:
        out = hf(inputs_embeds=given, use_cache=False, logits_to_keep=1)
        return out.logits[:, -1, answer]

    method = IntegratedGradients(logit)
    found = method.attribute(state, baselines=start, n_steps=steps, internal_batch_size=rows)
    return found[0].sum(-1)


def prepared(name: str, hf: Any, steps: int) -> Callable[[torch.Tensor], object]:
    """What is timed of a rival, given tokens."""
    if RIVALS[name] == "captum":
        return lambda ids: by_captum(hf, ids, steps, 1 if name == STEP_BY_STEP else steps)
    if name == "lxt":
        from lxt.efficient import monkey_patch
        from lxt.efficient.models.llama import attnLRP
        from transformers.models.llama import modeling_llama

        monkey_patch(modeling_llama, attnLRP)
    return lambda ids: by_gradient(hf, ids)


def main() -> None:
    """Measure one rival in this process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rival", choices=RIVALS)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if importlib.util.find_spec(RIVALS[asked.rival]) is None:
        print(json.dumps(None))
        return
    hf = shape(asked.smoke)
    ids = text(hf, asked.tokens)
    bare(hf, ids[:, :4])
    seconds = [Timer.once(lambda: bare(hf, ids))[1] for _ in range(asked.repeats)]
    work = prepared(asked.rival, hf, asked.steps)
    work(ids[:, :4])  # imports, and what is made once
    peak = peak_above(lambda: work(ids))
    found = [Timer.once(lambda: work(ids))[1] for _ in range(asked.repeats)]
    medians = {"bare": statistics.median(seconds), "rival": statistics.median(found)}
    print(json.dumps({**medians, "peak": peak}))


if __name__ == "__main__":
    main()
