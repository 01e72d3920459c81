"""Train two of the toy models: ``python -m layerlens.model.train_toys [induction] [addition]``.

`train_modular` and `train_digits` make the others. One thread, a fixed seed, a few minutes each.
What comes out is written below ``toys/`` beside this file, with the log of the training: what was
asked, how long it took, and the accuracy that was reached on examples that training never saw.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerlens.model.toys import TOYS, Examples, Toy, answer_accuracy, make_tokenizer, toy_folder

SEED = 0
FRESH = 4000  # rows of the final test


@dataclass(frozen=True)
class Recipe:
    """How one toy is trained: AdamW, a short warm-up, then a linear way down to zero."""

    steps: int
    batch: int
    rate: float
    decay: float
    warmup: int = 50


RECIPES = {
    "induction": Recipe(steps=1500, batch=64, rate=3e-3, decay=0.01),
    "addition": Recipe(steps=4000, batch=256, rate=3e-3, decay=0.01),
}


def build(toy: Toy) -> Any:
    """Build the untrained model of a toy, a small Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    common: dict[str, Any] = {"vocab_size": len(toy.words), "tie_word_embeddings": False}
    common |= {"pad_token_id": len(toy.words) - 1, "eos_token_id": None}
    begin = len(toy.words) - 3 if toy.begin else None
    width = {"induction": 64, "addition": 96}[toy.name]
    llama = LlamaConfig(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        hidden_size=width,
        # Induction is a matter of attention alone, so its MLPs are a mere stub.
        intermediate_size=16 if toy.name == "induction" else 4 * width,
        max_position_embeddings=128,
        bos_token_id=begin,
        **common,
    )
    return LlamaForCausalLM(llama)


def loss_on_answers(model: Any, examples: Examples) -> Tensor:
    """Mean cross-entropy in nats at the answer tokens only, a scalar."""
    logits = model(examples.ids).logits[:, :-1]
    chosen = examples.answer[:, 1:]
    return torch.nn.functional.cross_entropy(logits[chosen], examples.ids[:, 1:][chosen])


def train(toy: Toy, recipe: Recipe) -> tuple[Any, dict[str, Any]]:
    """Train one toy; return the model and its log."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = build(toy)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, weight_decay=recipe.decay, betas=(0.9, 0.98)
    )
    started, curve = time.perf_counter(), []
    for step in range(recipe.steps):
        share = min((step + 1) / recipe.warmup, 1 - step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * share
        loss = loss_on_answers(model, toy.draw(recipe.batch, False, generator))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % (recipe.steps // 25) == 0 or step == recipe.steps - 1:
            test = torch.Generator().manual_seed(SEED + 1)
            reached = answer_accuracy(model, toy.draw(500, True, test))
            curve.append({"step": step, "loss": loss.item(), "held_out_accuracy": reached})
            print(f"{toy.name} {step} loss {loss:.4f} held out {reached:.4f}", flush=True)
    return model.eval(), _log(toy, recipe, model, curve, time.perf_counter() - started)


def _log(
    toy: Toy, recipe: Recipe, model: Any, curve: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    test = torch.Generator().manual_seed(SEED + 2)
    return {
        "toy": toy.name,
        "teaches": toy.teaches,
        "recipe": asdict(recipe),
        "seed": SEED,
        "held_out_accuracy": answer_accuracy(model, toy.draw(FRESH, True, test)),
        "held_out_rows": FRESH,
        **circumstances(model, seconds),
        "curve": curve,
    }


def circumstances(model: Any, seconds: float) -> dict[str, Any]:
    """What a log says of the model, the time and the machine."""
    import transformers

    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "seconds": round(seconds, 1),
        "hardware": f"CPU ({platform.machine()}), {torch.get_num_threads()} thread",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def save(toy: Toy, model: Any, log: dict[str, Any], folder: Path) -> None:
    """Write weights, config, tokenizer and log of a toy."""
    folder.mkdir(parents=True, exist_ok=True)
    toy.trained.store(model.config)
    model.save_pretrained(folder)
    make_tokenizer(toy).save_pretrained(folder)
    text = json.dumps(log, indent=1)
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line: train both toys, or the one that is named."""
    parser = argparse.ArgumentParser(description="Train the toys of induction and addition.")
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="both by default")
    parser.add_argument("--folder", type=Path, help="write here instead of into the package")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.names or RECIPES:
        toy = TOYS[name]
        model, log = train(toy, RECIPES[name])
        place = toy_folder(name) if options.folder is None else options.folder / name
        save(toy, model, log, place)
        print(f"{name}: {log['held_out_accuracy']:.4f} held out, {log['seconds']} s, in {place}")


if __name__ == "__main__":
    main()
