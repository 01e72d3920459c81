"""What relevance and the gradients of the loss cost, next to the bare forward and the rivals.

    python benchmarks/attribution.py              # SmolLM2-135M's shape, random weights
    python benchmarks/attribution.py --quick      # each once, memory at 128 tokens alone
    python benchmarks/attribution.py --smoke      # a tiny model, to see that it runs
    python benchmarks/attribution.py --python ENV/bin/python    # where the rivals are

One text, one thread. layerlens' work and gradient times input by hand are timed in turn with the
bare forward of the same weights in the same process; what is printed is the median of the ratios,
by the wall clock and by CPU time. lxt (AttnLRP) and captum (integrated gradients, as many steps,
from the same baseline) take part where ``--python``'s environment has them
(``pip install lxt captum transformers==4.52.4``: lxt follows that release), each in a process of
its own beside its own bare forward. Then the peak memory above what the model takes, each in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attribution_rivals import RIVALS, bare, by_gradient, shape, text
from timing import Timer, peak_above

import layerlens as ll
from layerlens.analyses.contract.asking import Analysis
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.relevance.rules import RULES

Asked = tuple[Analysis, dict[str, Any]]

INTEGRATED = "relevance, integrated, embedding alone"
ATTNLRP = "relevance, attnlrp, embedding alone"
CP = "relevance, cp, embedding alone"
WORKS: dict[str, Asked] = {
    **{
        f"relevance, {rule}, {draws} random answers": (
            ll.relevance,
            {"rule": rule, "draws": draws},
        )
        for rule in RULES
        if rule != "integrated"
        for draws in (0, 4)
    },
    ATTNLRP: (ll.relevance, {"at": "embed", "draws": 0}),
    CP: (ll.relevance, {"rule": "cp", "at": "embed", "draws": 0}),
    INTEGRATED: (ll.relevance, {"rule": "integrated", "at": "embed"}),
    "layer_gradients, a text's own alone": (ll.layer_gradients, {"verify": 0, "control": False}),
    "layer_gradients, with its control": (ll.layer_gradients, {"verify": 0}),
    "the same, checked by a pass of the whole": (ll.layer_gradients, {}),
}
HEAVY = (
    "relevance, attnlrp, 0 random answers",
    ATTNLRP,
    CP,
    INTEGRATED,
    "layer_gradients, with its control",
)
"""Those whose memory is measured."""


def worked(model: ll.LensModel, ids: torch.Tensor, name: str) -> ll.Result:
    """One of `WORKS`, to its end."""
    analysis, options = WORKS[name]
    return analysis.run(model, model.tokens(ids), options, Silent())


def main() -> None:
    """Measure and print, or measure one thing's memory in this process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--tokens", type=int, default=64, help="of the text that is timed")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the rivals")
    parser.add_argument("--peak", choices=WORKS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    name = "a tiny Llama" if asked.smoke else "SmolLM2-135M's shape"
    model = ll.load(shape(asked.smoke), name=f"{name}, random weights")
    ids = text(model.hf, asked.tokens)
    if asked.peak:
        worked(model, ids[:, :4], asked.peak)  # what is found out about a model once
        print(peak_above(lambda: worked(model, ids, asked.peak)))
        return
    repeats = 1 if asked.quick or asked.smoke else 3
    steps = report_time(model, ids, repeats)
    rivals = report_rivals(asked, steps, repeats)
    lengths = (16,) if asked.smoke else (128,) if asked.quick else (128, 512)
    report_memory(asked, lengths, rivals)


def report_time(model: ll.LensModel, ids: torch.Tensor, repeats: int) -> int:
    """Everything in this process, in bare forwards; gives the steps that integrating took."""
    timer = Timer(lambda: bare(model.hf, ids), repeats)
    seconds = timer.ratios(timer.bare)[2]
    print(f"{model.name}, {ids.shape[1]} tokens, one thread: bare forward {seconds:.3f} s")
    print(f"{'':60}{'wall':>8}{'CPU':>8}")
    report(
        timer, "gradient times input by hand, embedding alone", lambda: by_gradient(model.hf, ids)
    )
    for name in WORKS:
        report(timer, name, lambda name=name: worked(model, ids, name))
    steps = int(worked(model, ids, INTEGRATED).data.steps_used.max())
    print(f"integrated in {steps} steps")
    return steps


def report(timer: Timer, words: str, work: Callable[[], object]) -> None:
    """A line of the table."""
    wall, cpu, _ = timer.ratios(work)
    print(f"{words:60}{wall:8.2f}{cpu:8.2f}", flush=True)


def report_rivals(asked: argparse.Namespace, steps: int, repeats: int) -> list[str]:
    """The rivals in bare forwards of their own processes; gives those that are installed."""
    print(f"\nin processes of their own, by {asked.python}:")
    there = []
    for name in RIVALS:
        found = rival(asked, name, asked.tokens, steps, repeats)
        if found is None:
            print(f"{name} is not installed there, so it takes no part: pip install {RIVALS[name]}")
            continue
        there.append(name)
        words = f"{name}, {steps} steps" if RIVALS[name] == "captum" else name
        times = f"{found['rival'] / found['bare']:8.2f} by CPU, bare forward {found['bare']:.3f} s"
        print(f"{words:60}{times}", flush=True)
    return there


def rival(
    asked: argparse.Namespace, name: str, tokens: int, steps: int, repeats: int
) -> dict[str, float] | None:
    """What a rival's own process says."""
    script = str(Path(__file__).with_name("attribution_rivals.py"))
    sizes = ["--tokens", str(tokens), "--steps", str(steps), "--repeats", str(repeats)]
    smoke = ["--smoke"] * asked.smoke
    command = [asked.python, script, name, *sizes, *smoke]
    return json.loads(run(command))


def report_memory(asked: argparse.Namespace, lengths: tuple[int, ...], rivals: list[str]) -> None:
    """Peaks above what was resident with the model loaded."""
    heads = "".join(f"{f'{length} tokens':>14}" for length in lengths)
    print(f"\n{'peak above the model, MB':60}{heads}")
    smoke = ["--smoke"] * asked.smoke
    for name in HEAVY:
        command = [sys.executable, __file__, "--peak", name, *smoke]
        report_peaks(name, [float(run([*command, "--tokens", str(n)])) for n in lengths])
    for name in rivals:
        found = [rival(asked, name, length, 16, 1) for length in lengths]
        report_peaks(name, [peaks["peak"] for peaks in found if peaks])


def report_peaks(words: str, peaks: list[float]) -> None:
    """A line of the table."""
    print(f"{words:60}" + "".join(f"{peak:14.0f}" for peak in peaks), flush=True)


def run(command: list[str]) -> str:
    """The last line of what a process prints; what it says of errors is seen."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
