"""What a probe costs beside the pass that its states come from.

    python benchmarks/learning.py            # the default model, 2,000 texts of 16 tokens
    python benchmarks/learning.py --quick    # 200 texts
    python benchmarks/learning.py --smoke    # a tiny model, to see that it runs

Prints the peak memory of the recording for as many texts and for ten times as many, with the same
limit. Then, as multiples of the bare forward over the same texts (wall and CPU), a probe of every
layer with its control: alone, and beside an untrained model, which takes a pass of its own.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from measure import tiny
from timing import Timer, peak_above

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.examples import recorded
from layerlens.analyses.probing.probe import points_of
from layerlens.corpus.shard import batches

LENGTH = 16
LIMIT = 20_000_000
"""Bytes of states that are held; more go to a file."""


def made(model: ll.LensModel, texts: int) -> tuple[ll.Texts, list[int]]:
    """Texts of random tokens whose label is the parity of the last one."""
    random = np.random.default_rng(0)
    ids = random.integers(5, model.d_vocab - 5, (texts, LENGTH)).tolist()
    return ll.texts(ids), [row[-1] % 2 for row in ids]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    model = tiny() if asked.smoke else ll.load()
    count = 40 if asked.smoke else 200 if asked.quick else 2000
    texts, labels = made(model, count)
    print(f"{model.name}: {count} texts of {LENGTH} tokens, {model.n_layers + 1} points")
    # First, for what was freed before would be taken again and not be seen.
    points = points_of(model, "resid_post", None)
    for number in (count, 10 * count):
        more = made(model, number)[0]
        peak = peak_above(lambda more=more: recorded(model, more, points, -1, LIMIT))
        print(f"recording {number} texts: {peak:.0f} MB above what was there before")
    rows = rows_of(model, texts)

    def bare() -> None:
        for tokens, _ in batches(model, rows, 1024):
            with torch.inference_mode():
                model.hf(input_ids=tokens.ids, attention_mask=tokens.mask, use_cache=False)

    timer = Timer(bare, 1 if asked.smoke else 3)
    print(f"{'':60}{'wall':>7}{'CPU':>7}")
    for words, untrained in (("a probe of every layer and its control", False),
                             ("the same, beside an untrained model", True)):  # fmt: skip
        options = {"labels": labels, "untrained": untrained}
        wall, cpu, _ = timer.ratios(
            lambda options=options: ll.probe.run(model, texts, options, Silent())
        )
        print(f"{words:60}{wall:7.2f}{cpu:7.2f}")


if __name__ == "__main__":
    main()
