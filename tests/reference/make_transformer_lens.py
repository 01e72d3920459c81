"""Write ``transformer_lens.json``: numbers that TransformerLens computes on the default model.

Run by hand, in an environment of its own (``pip install transformer-lens==4.3.0``), whenever
the numbers have to be made again; the tests only read the file. Nothing of layerlens is used.

    python tests/reference/make_transformer_lens.py FOLDER_OF_THE_DEFAULT_MODEL
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformer_lens
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "The capital of France is"
TOP_K = 5
VECTORS = ((0, 0), (7, 2))
"""Layers and heads (of keys and values, too) whose vectors at the last position are kept."""
NAMES = {
    "q": "hook_q",
    "k": "hook_k",
    "v": "hook_v",
    "rot_q": "hook_rot_q",
    "rot_k": "hook_rot_k",
    "z": "hook_z",
}
"""Short name here -> what it is called there."""


def main(folder: str) -> None:
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(folder, hf_model=hf, tokenizer=tokenizer)
    ids = torch.tensor([tokenizer.encode(PROMPT, add_special_tokens=False)])
    with torch.inference_mode():
        logits, cache = bridge.run_with_cache(ids)
        points = {"embed": cache["blocks.0.hook_resid_pre"]}
        for layer in range(bridge.cfg.n_layers):
            points[f"{layer}_mid"] = cache[f"blocks.{layer}.hook_resid_mid"]
            points[f"{layer}_post"] = cache[f"blocks.{layer}.hook_resid_post"]
        rows = {
            label: _row(bridge.unembed(bridge.ln_final(x))[0, -1]) for label, x in points.items()
        }
        rows["final"] = _row(logits[0, -1])
        patterns = {
            f"{layer}.{head}": cache[f"blocks.{layer}.attn.hook_pattern"][0, head, -1].tolist()
            for layer, head in ((0, 0), (7, 3), (29, 8))
        }
        vectors = {
            f"{short}.{layer}.{head}": [
                round(value, 5)
                for value in cache[f"blocks.{layer}.attn.{name}"][0, -1].view(-1, 64)[head].tolist()
            ]
            for short, name in NAMES.items()
            for layer, head in VECTORS
        }
    result = {
        "made_by": f"transformer_lens {transformer_lens.__version__}"
        if hasattr(transformer_lens, "__version__")
        else "transformer_lens 4.3.0",
        "prompt": PROMPT,
        "ids": ids[0].tolist(),
        "rows": rows,
        "patterns": patterns,
        "vectors": vectors,
    }
    target = Path(__file__).with_name("transformer_lens.json")
    target.write_text(json.dumps(result, indent=1) + "\n")


def _row(logits: torch.Tensor) -> dict[str, object]:
    log_probabilities = logits.float().log_softmax(-1)
    top = log_probabilities.topk(TOP_K)
    entropy = -(log_probabilities.exp() * log_probabilities).sum()
    return {
        "token_id": top.indices.tolist(),
        "logprob": [round(value, 6) for value in top.values.tolist()],
        "entropy": round(entropy.item(), 6),
    }


if __name__ == "__main__":
    main(sys.argv[1])
