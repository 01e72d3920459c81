"""Write ``relevance.json``: what lxt and captum say that an answer's logit leans on.

Run by hand, in an environment of its own (``pip install lxt==2.1 captum==0.9.0
transformers==4.52.4``), whenever it has to be made again; the tests only read the file. Nothing of
layerlens is used. lxt patches a model's classes for the whole process, so each of its rules gets
a process of its own.

    python tests/reference/make_relevance.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
IDS, OTHER, ANSWER = [3, 14, 15, 9, 26, 5], [3, 14, 31, 9, 26, 5], 8


def small_model(family: str) -> Any:
    """A model that the test makes again, from NumPy's own generator."""
    if family == "gpt2":
        sizes = {"n_layer": 3, "n_embd": 16, "n_head": 2, "vocab_size": 40, "n_positions": 16}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    else:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        sizes = {"num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 24}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, vocab_size=40))
    random = np.random.default_rng(0)
    for _, array in sorted(model.named_parameters()):
        array.data = torch.tensor(random.normal(0, 0.3, tuple(array.shape)), dtype=torch.float32)
    return model.eval()


def by_lxt(family: str, rule: str) -> list[list[float]]:
    """Relevance of the states before each block, by token."""
    from lxt.efficient import monkey_patch
    from lxt.efficient.models import gpt2, llama
    from transformers.models.gpt2 import modeling_gpt2
    from transformers.models.llama import modeling_llama

    of = {"gpt2": (modeling_gpt2, gpt2), "llama": (modeling_llama, llama)}
    module, patches = of[family]
    patch_map = patches.cp_LRP if rule == "cp" else patches.attnLRP
    monkey_patch(module, patch_map)
    model = small_model(family)
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.config._attn_implementation = "eager"
    blocks = model.transformer.h if family == "gpt2" else model.model.layers
    states: list[torch.Tensor] = []

    def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = args[0] if args else kwargs["hidden_states"]
        state.retain_grad()
        states.append(state)

    for block in blocks:
        block.register_forward_pre_hook(keep, with_kwargs=True)
    embedded = model.get_input_embeddings()(torch.tensor([IDS])).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, use_cache=False).logits
    logits[0, -1, ANSWER].backward()
    return [(state * state.grad)[0].sum(-1).tolist() for state in states]


def by_captum(family: str) -> list[float]:
    """Integrated gradients of the embeddings, from another text's."""
    from captum.attr import IntegratedGradients

    model = small_model(family)
    embed = model.get_input_embeddings()

    def logit(embedded: torch.Tensor) -> torch.Tensor:
        return model(inputs_embeds=embedded, use_cache=False).logits[:, -1, ANSWER]

    here, there = (embed(torch.tensor([ids])).detach() for ids in (IDS, OTHER))
    found = IntegratedGradients(logit).attribute(here, baselines=there, n_steps=400)
    return found[0].sum(-1).tolist()


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(by_lxt(*sys.argv[1:])))
        return
    found: dict[str, Any] = {
        "made_by": {name: version(name) for name in ("lxt", "captum", "transformers")},
        "ids": IDS,
        "other": OTHER,
        "answer": ANSWER,
    }
    for family in ("gpt2", "llama"):
        found[family] = {"integrated": by_captum(family)}
        for rule in ("attnlrp", "cp"):
            run = [sys.executable, __file__, family, rule]
            out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
            found[family][rule] = json.loads(out.splitlines()[-1])
    (HERE / "relevance.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
