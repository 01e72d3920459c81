"""Train the toys of words and of digits: ``python -m layerlens.model.train_toys [NAME ...]``.

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
    """How one toy is trained: AdamW, a short warm-up, then a linear way down to zero.

    From step ``few_from`` on ``few_heads`` times the sum of the heads' norms is added to the loss,
    so that a head that is not needed fades away (Yuan and Lin 2006, Model selection and estimation
    in regression with grouped variables).
    """

    steps: int
    batch: int
    rate: float
    decay: float
    warmup: int = 50
    few_heads: float = 0.0
    few_from: int = 0


RECIPES = {
    "induction": Recipe(steps=1500, batch=64, rate=3e-3, decay=0.01),
    "two_heads": Recipe(steps=1500, batch=64, rate=3e-3, decay=0.01, few_heads=0.01, few_from=300),
    "addition": Recipe(steps=4000, batch=256, rate=3e-3, decay=0.01),
}


def build(toy: Toy) -> Any:
    """Build the untrained model of a toy, a small Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    common: dict[str, Any] = {"vocab_size": len(toy.words), "tie_word_embeddings": False}
    common |= {"pad_token_id": len(toy.words) - 1, "eos_token_id": None}
    begin = len(toy.words) - 3 if toy.begin else None
    attention_alone = toy.draw is TOYS["induction"].draw
    width = 64 if attention_alone else 96
    llama = LlamaConfig(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        hidden_size=width,
        # Induction is a matter of attention alone, so its MLPs are a mere stub.
        intermediate_size=16 if attention_alone else 4 * width,
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


def head_norms(model: Any) -> Tensor:
    """``[layer, head]``: Frobenius norm of each head's value and output matrices together."""
    heads = model.config.num_attention_heads
    found = []
    for block in model.model.layers:
        values = block.self_attn.v_proj.weight.unflatten(0, (heads, -1))
        outputs = block.self_attn.o_proj.weight.unflatten(1, (heads, -1))
        squares = values.square().sum((1, 2)) + outputs.square().sum((0, 2))
        found.append((squares + 1e-8).sqrt())  # at 0 a root has no slope
    return torch.stack(found)


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
        many = recipe.few_heads and step >= recipe.few_from
        optimizer.zero_grad()
        torch.autograd.backward(loss + recipe.few_heads * head_norms(model).sum() if many else loss)
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
    """Command line: train all of these toys, or those named."""
    parser = argparse.ArgumentParser(description="Train the toys of words and of digits.")
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="all by default")
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
