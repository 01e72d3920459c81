"""Write ``head_detector.json``: scores that TransformerLens gives the default model's heads.

Run by hand, in an environment of its own (``pip install transformer-lens==4.3.0``), whenever
the numbers have to be made again; the tests only read the file. Nothing of layerlens is used.
The entropy is that of PyTorch's categorical distribution.

    python tests/reference/make_head_detector.py FOLDER_OF_THE_DEFAULT_MODEL
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformer_lens import head_detector
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = (
    "The cat sat on the mat and the dog sat on the rug. The cat sat on the mat and the dog sat "
    "on the rug, as the cat and the dog do."
)
LAYERS = (0, 9, 17, 18, 29)
KINDS = ("previous_token", "duplicate_token", "induction")


def main(folder: str) -> None:
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(folder, hf_model=hf, tokenizer=tokenizer)
    ids = torch.tensor([tokenizer.encode(TEXT, add_special_tokens=False)])
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(ids)
        patterns = {layer: cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in LAYERS}
    scores: dict[str, dict[str, list[float]]] = {}
    for kind in KINDS:
        detection = getattr(head_detector, f"get_{kind}_head_detection_pattern")(ids)
        for plain in (True, False):
            name = kind if plain else f"{kind}_without_first_and_current"
            scores[name] = {
                str(layer): [_score(head, detection, plain) for head in pattern]
                for layer, pattern in patterns.items()
            }
    scores["attention_entropy"] = {
        str(layer): torch.distributions.Categorical(probs=pattern.double())
        .entropy()
        .mean(-1)
        .tolist()
        for layer, pattern in patterns.items()
    }
    rounded = {
        name: {layer: [round(x, 7) for x in row] for layer, row in rows.items()}
        for name, rows in scores.items()
    }
    result = {"made_by": "transformer_lens 4.3.0", "text": TEXT, "ids": ids[0].tolist()}
    target = Path(__file__).with_name("head_detector.json")
    target.write_text(json.dumps({**result, "scores": rounded}, indent=1) + "\n")


def _score(pattern: torch.Tensor, detection: torch.Tensor, plain: bool) -> float:
    return float(
        head_detector.compute_head_attention_similarity_score(
            pattern,
            detection_pattern=detection,
            exclude_bos=not plain,
            exclude_current_token=not plain,
            error_measure="mul",
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
