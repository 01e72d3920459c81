"""What learning a dictionary costs: tokens a second, beside SAELens, and memory as texts grow.

python benchmarks/features.py [--smoke]
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from measure import tiny

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.features.dictionaries.dictionary import mean_max_cosine
from layerlens.analyses.features.training.learner import Learner, Recipe

K, BATCH, STEPS = 32, 1024, 8
DIRECTIONS, WIDTH, ON = 64, 32, 3


def main() -> None:
    """Run all parts, or one in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: no number means anything")
    parser.add_argument("--corpus", type=int, help="texts to learn from; prints the peak in MB")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.corpus:
        print(peak(asked.corpus))
        return
    report_speed(*((32, 64, 4) if asked.smoke else (576, 4608, K)))
    report_planted(20 if asked.smoke else 3000)
    report_memory(10 if asked.smoke else 200)


def report_speed(width: int, features: int, k: int) -> None:
    """Tokens a second of CPU time of one step on activations that are there."""
    x = [torch.randn(BATCH, width) for _ in range(4)]
    recipe = Recipe("topk", features, k, 1e-3, BATCH, 10**9, 10**9, 0, "none")
    steps: dict[str, Callable[[torch.Tensor], object]] = {"layerlens": Learner(recipe, x[0]).step}
    if importlib.util.find_spec("sae_lens") is None:
        print("sae-lens is not installed here, so it takes no part: pip install sae-lens")
    else:
        steps["SAELens"] = sae_lens_step(width, features, k)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(STEPS):
        for name, step in steps.items():
            started = time.process_time()
            step(x[number % len(x)])
            times[name].append(time.process_time() - started)
    for name, found in times.items():
        speed = BATCH / statistics.median(found[2:])
        print(f"topk, {width} to {features:,}, {name}: {speed:,.0f} tokens a second of CPU time")


def sae_lens_step(width: int, features: int, k: int) -> Callable[[torch.Tensor], object]:
    """One step as SAELens trains: its loss, its clipping, Adam."""
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import TrainStepInput

    cls, config = get_sae_training_class("topk")
    sae = cls(config(d_in=width, d_sae=features, k=k))
    adam = torch.optim.Adam(sae.parameters(), lr=3e-4)

    def step(x: torch.Tensor) -> None:
        adam.zero_grad()
        given = TrainStepInput(
            sae_in=x, coefficients={}, dead_neuron_mask=None, n_training_steps=1,
            is_logging_step=False,
        )  # fmt: skip
        sae.training_forward_pass(given).loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()

    return step


def report_planted(steps: int) -> None:
    """Find 64 directions in 32 entries, of which each activation is a sum of 3."""
    random = torch.Generator().manual_seed(1)
    true = torch.randn(DIRECTIONS, WIDTH, generator=random)
    true /= true.norm(dim=-1, keepdim=True)

    def draw() -> torch.Tensor:
        on = torch.rand(BATCH, DIRECTIONS, generator=random) < ON / DIRECTIONS
        return (on * (0.5 + torch.rand(BATCH, DIRECTIONS, generator=random))) @ true

    total = steps * BATCH
    recipe = Recipe("topk", 2 * DIRECTIONS, ON, 1e-3, BATCH, total, total // 10, 0, "none")
    learner, started = Learner(recipe, draw()), time.process_time()
    begun = mean_max_cosine(true, learner.arrays()["W_dec"])
    for _ in range(steps):
        learner.step(draw())
    found = mean_max_cosine(true, learner.arrays()["W_dec"])
    seconds = time.process_time() - started
    print(f"planted directions: MMCS {begun:.3f} before, {found:.4f} after {seconds:.0f} CPU s")


def report_memory(texts: int) -> None:
    """Peak of a process that learns from some texts, and from ten times as many."""
    found = []
    for count in (texts, 10 * texts):
        command = [sys.executable, __file__, "--corpus", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(float(done.stdout.split()[-1]))
    print(f"peak with {texts} texts {found[0]:.0f} MB, with ten times as many {found[1]:.0f} MB")


def peak(count: int) -> float:
    """Resident peak in MB of learning from so many texts of 128 tokens, each once."""
    model = tiny()
    random = torch.Generator().manual_seed(0)

    def made() -> list[list[int]]:
        return torch.randint(1, model.d_vocab, (count, 128), generator=random).tolist()

    options = {"layers": 1, "size": 4, "k": 4, "memory_limit": 20_000_000}
    ll.train_sae.run(model, ll.texts(made()), options, Silent())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
