"""The dictionary that is shipped for a toy: ``python -m layerlens.analyses.features.toy_sae``.

A minute on one thread. What comes out lies beside the toy's weights, in half precision, with the
log of the training: loss, L0, dead features and explained variance as it went, and what was
measured with the file as it is shipped, on examples that neither the toy nor the dictionary saw.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.features.sae_metrics import sae_metrics
from layerlens.analyses.features.training.learner import STATE
from layerlens.analyses.features.training.train_sae import train_sae
from layerlens.errors import InputError
from layerlens.model.toys import PREFIX, get_toy, toy_folder
from layerlens.result.fitted import Fitted, open_fitted

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

TOY = "addition"
RECIPE: Mapping[str, Any] = {
    "layers": 0, "kind": "topk", "size": 4, "k": 8, "activations": 400_000, "batch": 512,
}  # fmt: skip
EXAMPLES, APART = 4000, 500
FILE, LOG = "sae.safetensors", "sae.json"
CURVES = ("loss", "l0", "dead", "explained_variance")
MEASURED = ("explained_variance", "l0", "dead", "kl", "kl_score")
"""Without cross-entropies: most of the toy's tokens are random digits, which it cannot know."""


def load_toy_sae(name: str, model: LensModel) -> Fitted:
    """The dictionary that is shipped for a toy, in float32.

    Raises
    ------
    InputError
        None is, or the model is another.
    """
    path = toy_folder(name) / FILE
    if not path.is_file():
        raise InputError(
            f"No dictionary is shipped for {name!r}; expected '{PREFIX}{TOY}', or a folder: learn "
            "one with ll.train_sae."
        )
    sae = open_fitted(path)
    sae.require(model, "sae")
    return replace(sae, arrays={name: one.float() for name, one in sae.arrays.items()})


def examples(count: int, seed: int, *, held_out: bool) -> list[list[int]]:
    """Examples of the toy's task, each the ids of its tokens."""
    drawn = get_toy(TOY).draw(count, held_out, torch.Generator().manual_seed(seed))
    found: list[list[int]] = drawn.ids.tolist()
    return found


def measure(model: LensModel, sae: Fitted) -> dict[str, Any]:
    """What a dictionary explains of examples that neither the toy nor it was taught."""
    data = sae_metrics(model, examples(APART, 1, held_out=True), sae=sae).data
    return {name: data[name].values.tolist() for name in MEASURED}


def train(model: LensModel) -> tuple[Fitted, dict[str, Any]]:
    """Learn the dictionary; return it in half precision, and the log of it."""
    started = time.process_time()
    texts = examples(EXAMPLES, 0, held_out=False)
    learned = train_sae.run(model, texts, RECIPE, Silent())
    if learned.fitted is None:
        raise RuntimeError("a training that ended gave no dictionary")
    arrays = learned.fitted.arrays.items()
    halved = {name: one.half() for name, one in arrays if not name.startswith(STATE)}
    call = "python -m layerlens.analyses.features.toy_sae"
    log = {
        "toy": TOY,
        "recipe": {**RECIPE, "examples": EXAMPLES},
        "cpu_seconds": round(time.process_time() - started, 1),
        "activations": learned.data.activations.values.tolist(),
        "curves": {name: learned.data[name].values.tolist() for name in CURVES},
        "dictionaries": learned.data.dictionary.values.tolist(),
    }
    return replace(learned.fitted, arrays=halved, call=call), log


def main(arguments: list[str] | None = None) -> None:
    """Command line: learn it and write it, with its log."""
    from layerlens.model.load import load

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="write here instead of into the package")
    folder = parser.parse_args(arguments).folder or toy_folder(TOY)
    torch.set_num_threads(1)
    model = load(PREFIX + TOY)
    sae, log = train(model)
    sae.save(folder / FILE)
    shipped = replace(sae, arrays={name: one.float() for name, one in sae.arrays.items()})
    log["measured"] = {"examples": APART, **measure(model, shipped)}
    (folder / LOG).write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(log["measured"]), "in", folder)


if __name__ == "__main__":
    main()
