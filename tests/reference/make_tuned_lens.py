"""Write ``tuned_lens/`` and ``tuned_lens.json``: a lens saved and read by the tuned-lens package.

Run by hand, in an environment of its own (``pip install tuned-lens==0.2.0``, or the package alone
with ``--no-deps`` beside torch and transformers), whenever they have to be made again; the tests
only read the files. Nothing of layerlens is used.

    python tests/reference/make_tuned_lens.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from tuned_lens import TunedLens

HERE = Path(__file__).parent
TOP = 3


def small_model() -> GPT2LMHeadModel:
    """A model that the test makes again, from NumPy's own generator."""
    sizes = {"n_layer": 3, "n_embd": 16, "n_head": 2, "vocab_size": 40, "n_positions": 16}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
    random = np.random.default_rng(0)
    for _, array in sorted(model.named_parameters()):
        array.data = torch.tensor(random.normal(0, 0.3, tuple(array.shape)), dtype=torch.float32)
    return model


def main() -> None:
    model = small_model()
    lens = TunedLens.from_model(model)
    random = np.random.default_rng(1)
    for translator in lens:
        for array in translator.parameters():
            value = random.normal(0, 0.3, tuple(array.shape))
            array.data = torch.tensor(value, dtype=torch.float32)
    ids = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8]])
    with torch.no_grad():
        run = model(ids, output_hidden_states=True)
        final = run.logits[0].double().log_softmax(-1)
        points = {}
        for index in range(model.config.n_layer):
            logp = lens(run.hidden_states[index], index)[0].double().log_softmax(-1)
            top = logp.topk(TOP)
            points["embed" if index == 0 else f"{index - 1}_post"] = {
                "token_id": top.indices.tolist(),
                "probability": top.values.exp().tolist(),
                "kl_to_final": (final.exp() * (final - logp)).sum(-1).tolist(),
            }
    lens.save(HERE / "tuned_lens")
    found = {
        "made_by": {"tuned-lens": version("tuned-lens")},
        "ids": ids[0].tolist(),
        "unembed_hash": lens.unembed.unembedding_hash(),
        "points": points,
    }
    (HERE / "tuned_lens.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
