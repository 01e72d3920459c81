"""Train the modular addition toy: ``python -m layerlens.model.train_modular``.

It groks: within a few hundred steps the pairs that it is shown are known by heart, and only much
later it is right for pairs that it never saw (Power et al. 2022, Grokking: Generalization Beyond
Overfitting on Small Algorithmic Datasets). The recipe is that of Nanda et al. (2023, Progress
measures for grokking via mechanistic interpretability): 30 % of all pairs modulo 113, all of them
in every step, AdamW with a weight decay of 1; with a smaller model, so that it takes minutes. One
thread, a fixed seed. What comes out is written below ``toys/`` beside this file, with the curves
of both kinds of pairs and the weights at `KEPT`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from layerlens.model.toy_checkpoints import store
from layerlens.model.toys import MODULUS, TOYS, modular_pairs, toy_folder
from layerlens.model.train_toys import circumstances, save

SEED = 0
WIDTH, HEADS, NEURONS = 64, 4, 256
EVERY = 10
"""Steps from one point of the curves to the next."""


@dataclass(frozen=True)
class Recipe:
    """AdamW on all pairs at once, a warm-up, and at the end a linear way down to zero.

    ``kept`` are the steps after which the weights are kept; the last one is the toy itself.
    """

    steps: int = 1200
    rate: float = 2e-3
    decay: float = 1.0
    warmup: int = 10
    cooldown: int = 300
    kept: tuple[int, ...] = (0, 50, 100, 150, 200, 300, 400, 500, 600, 700, 900, 1200)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        share = min((step + 1) / self.warmup, (self.steps - step) / self.cooldown, 1.0)
        return self.rate * share


def build() -> Any:
    """Build the untrained model: one block of GPT-2 with ReLU."""
    from transformers import GPT2Config, GPT2LMHeadModel

    words = len(TOYS["modular"].words)
    config = GPT2Config(
        vocab_size=words, n_layer=1, n_head=HEADS, n_embd=WIDTH, n_inner=NEURONS, n_positions=8,
        activation_function="relu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=words - 1,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def sums(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """``a + b =`` in token ids, ``[n, 4]``, and the answers ``[n]``, of pairs ``[n, 2]``."""
    a, b = pairs.T
    plus, equals = torch.full_like(a, MODULUS), torch.full_like(a, MODULUS + 1)
    return torch.stack([a, plus, b, equals], dim=1), (a + b) % MODULUS


def measured(logits: Tensor, answers: Tensor) -> tuple[Tensor, float]:
    """Mean cross-entropy in nats, and the share of answers that are ranked first."""
    return cross_entropy(logits, answers), float((logits.argmax(-1) == answers).float().mean())


def train(recipe: Recipe) -> tuple[Any, dict[int, dict[str, Tensor]], dict[str, Any]]:
    """Train it; return the model, its weights at the steps that are kept, and its log."""
    torch.manual_seed(SEED)
    model = build()
    shown, held_out = sums(modular_pairs()), sums(modular_pairs(held_out=True))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, weight_decay=recipe.decay, betas=(0.9, 0.98)
    )
    started = time.perf_counter()
    curve: list[dict[str, float]] = []
    kept: dict[int, dict[str, Tensor]] = {}
    for step in range(recipe.steps + 1):
        if step in recipe.kept:
            kept[step] = {name: w.detach().half() for name, w in model.state_dict().items()}
        loss, accuracy = measured(model(shown[0], logits_to_keep=1).logits[:, -1], shown[1])
        if step % EVERY == 0:
            with torch.no_grad():
                said = model(held_out[0], logits_to_keep=1).logits[:, -1]
            apart, reached = measured(said, held_out[1])
            curve.append(
                {
                    "step": step,
                    "loss": round(loss.item(), 5),
                    "accuracy": round(accuracy, 4),
                    "held_out_loss": round(apart.item(), 5),
                    "held_out_accuracy": round(reached, 4),
                }
            )
            print(*curve[-1].items(), flush=True)
        if step < recipe.steps:
            optimizer.param_groups[0]["lr"] = recipe.rate_at(step)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return model.eval(), kept, _log(recipe, model, curve, time.perf_counter() - started)


def _log(
    recipe: Recipe, model: Any, curve: list[dict[str, float]], seconds: float
) -> dict[str, Any]:
    return {
        "toy": "modular",
        "teaches": TOYS["modular"].teaches,
        "recipe": asdict(recipe),
        "seed": SEED,
        "trained_pairs": len(modular_pairs()),
        "held_out_pairs": len(modular_pairs(held_out=True)),
        "held_out_accuracy": curve[-1]["held_out_accuracy"],
        **circumstances(model, seconds),
        "curve": curve,
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the modular addition toy.")
    parser.add_argument("--folder", type=Path, help="write here instead of into the package")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = options.folder or toy_folder("modular")
    model, kept, log = train(Recipe())
    save(TOYS["modular"], model, log, folder)
    store(kept, folder)
    print(f"{log['held_out_accuracy']:.4f} held out, {log['seconds']} s, in {folder}")


if __name__ == "__main__":
    main()
