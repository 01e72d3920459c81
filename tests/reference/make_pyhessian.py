"""Write ``pyhessian.json``: largest eigenvalue and trace of each block's Hessian by PyHessian.

Run by hand, where pyhessian is installed (``pip install pyhessian==0.1``) beside torch and
transformers, whenever it has to be made again; the tests only read the file. Nothing of layerlens
is used. PyHessian differentiates by whatever has ``requires_grad``, so that a block is asked alone
by freezing the rest.

    python tests/reference/make_pyhessian.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyhessian import hessian
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
IDS = [3, 14, 15, 9, 26, 5, 8, 31]
DRAWS = 2000


class Logits(nn.Module):
    """A model whose output is what its loss is of."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """``[next token, vocabulary]``."""
        return self.model(ids, use_cache=False).logits[0, :-1]


def small_model(family: str) -> Any:
    """A model that the test makes again, from NumPy's own generator."""
    if family == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 40, "n_positions": 16}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    else:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        sizes = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, vocab_size=40))
    random = np.random.default_rng(0)
    for _, array in sorted(model.named_parameters()):
        array.data = torch.tensor(random.normal(0, 0.3, tuple(array.shape)), dtype=torch.float32)
    model.set_attn_implementation("eager")
    return model.eval()


def by_pyhessian(family: str) -> dict[str, list[float]]:
    """Numbers of each block."""
    model = small_model(family)
    blocks = model.transformer.h if family == "gpt2" else model.model.layers
    found: dict[str, list[float]] = {"top": [], "trace": [], "trace_error": []}
    for block in blocks:
        model.requires_grad_(False)
        block.requires_grad_(True)
        torch.manual_seed(0)
        data = torch.tensor([IDS]), torch.tensor(IDS[1:])
        work = hessian(Logits(model), nn.CrossEntropyLoss(), data=data, cuda=False)
        values, _ = work.eigenvalues(maxIter=3000, tol=1e-7)
        # It divides by the trace with its sign, so that with any other tol a negative one ends it.
        draws = np.array(work.trace(maxIter=DRAWS, tol=-float("inf")))
        found["top"].append(values[0])
        found["trace"].append(float(draws.mean()))
        found["trace_error"].append(float(draws.std(ddof=1) / len(draws) ** 0.5))
    return found


def main() -> None:
    found: dict[str, Any] = {
        "made_by": {name: version(name) for name in ("pyhessian", "torch", "transformers")},
        "ids": IDS,
        "draws": DRAWS,
        **{family: by_pyhessian(family) for family in ("gpt2", "llama")},
    }
    (HERE / "pyhessian.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
