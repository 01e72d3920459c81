"""Train the small picture model that layerlens ships: ``python -m layerlens.model.train_digits``.

A vision transformer of three blocks on the 8 x 8 digits of scikit-learn (E. Alpaydin and C.
Kaynak, 1998, Optical Recognition of Handwritten Digits, UCI), one thread, a fixed seed, about two
minutes. What comes out is written below ``toys/`` beside this file, with its log.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerlens.model.toys import toy_folder
from layerlens.model.train_toys import circumstances

SEED, STEPS, BATCH, RATE = 0, 1500, 128, 2e-3
TEST = 360
"""Pictures set apart, of 1,797."""


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """The digits, ``[n, 8, 8]`` bytes and their classes, in an order that a seed draws."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    shown = (data.images[order] / 16 * 255).round().astype(np.uint8)
    return shown, data.target[order]


def fed(shown: np.ndarray) -> Tensor:
    """``[n, 3, 8, 8]``: what the model takes, grey in each of three channels, from -1 to 1."""
    values = torch.from_numpy(shown.astype(np.float32)) / 127.5 - 1
    return values[:, None].expand(-1, 3, -1, -1)


def build() -> Any:
    """Build the untrained model."""
    from transformers import ViTConfig, ViTForImageClassification

    names = {digit: str(digit) for digit in range(10)}
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=3, hidden_size=48, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=96, id2label=names,
        label2id={name: digit for digit, name in names.items()},
    )  # fmt: skip
    return ViTForImageClassification(config)


def accuracy(model: Any, values: Tensor, labels: Tensor) -> float:
    """Share of pictures whose class the model ranks first."""
    with torch.inference_mode():
        return float((model(values).logits.argmax(-1) == labels).float().mean())


def train() -> tuple[Any, dict[str, Any]]:
    """Train it on pictures moved by up to a pixel; return the model and its log."""
    torch.manual_seed(SEED)
    model = build()
    shown, classes = pictures()
    labels = torch.from_numpy(classes)
    values, apart = fed(shown[TEST:]), fed(shown[:TEST])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    started, curve = time.perf_counter(), []
    for step in range(STEPS):
        share = min((step + 1) / 50, 1 - step / STEPS)
        optimizer.param_groups[0]["lr"] = RATE * share
        rows = torch.randint(len(values), (BATCH,))
        moves = torch.randint(-1, 2, (2,)).tolist()
        moved = torch.roll(
            torch.nn.functional.pad(values[rows], (1, 1, 1, 1), value=-1.0), moves, (2, 3)
        )
        logits = model(moved[..., 1:-1, 1:-1]).logits
        loss = torch.nn.functional.cross_entropy(logits, labels[TEST:][rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if step % (STEPS // 15) == 0 or step == STEPS - 1:
            model.train(False)
            reached = accuracy(model, apart, labels[:TEST])
            model.train(True)
            curve.append({"step": step, "loss": loss.item(), "held_out_accuracy": reached})
            print(f"digits {step} loss {loss:.4f} held out {reached:.4f}", flush=True)
    model.train(False)
    log = {
        "toy": "digits",
        "teaches": "name the digit in a picture of 8 x 8 pixels",
        "recipe": {"steps": STEPS, "batch": BATCH, "rate": RATE},
        "seed": SEED,
        "held_out_accuracy": accuracy(model, apart, labels[:TEST]),
        "held_out_rows": TEST,
        **circumstances(model, time.perf_counter() - started),
        "curve": curve,
    }
    return model, log


def save(model: Any, log: dict[str, Any], folder: Path) -> None:
    """Write weights, config, what prepares pictures, and the log."""
    model.save_pretrained(folder)
    prepared = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 8, "width": 8},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    for name, content in (("preprocessor_config.json", prepared), ("training.json", log)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    torch.set_num_threads(1)
    model, log = train()
    save(model, log, toy_folder("digits"))
    print(f"{log['held_out_accuracy']:.4f} held out, {log['seconds']} s")


if __name__ == "__main__":
    main()
