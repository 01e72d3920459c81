"""What a model that does not fit costs: offloaded against whole, and workers against one process.

    python benchmarks/scale.py           # the default model; some minutes on two cores
    python benchmarks/scale.py --smoke   # a small model: does it run?

The first table has one text through each analysis in a model that is in memory, and in the same
model with all but its first block on a disk (accelerate): the median of the ratios to the bare
forward of the whole model, by the wall clock, and the peak memory above what was resident before.
Files that were read a moment ago are in the system's cache, so this is the cost of reading them
again and not of the disk. The second has seconds of ``layer_metrics`` over one text, which is what
workers take to start, and over many, in this process and on one and two Ray workers. Between
them, where nnsight is installed, calls of a model by requests that are packed, unpacked and run in
this process, beside the same calls without: what requests cost before any network.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import accelerate
import torch
from timing import Timer, peak_above

import layerlens as ll
from layerlens.corpus.cluster import start
from layerlens.corpus.installed import installed_texts
from layerlens.model import default
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

IDS = list(range(5, 37))
QUICK = {"num_hidden_layers": 4, "hidden_size": 128, "vocab_size": 2000}


def asked(model: LensModel) -> dict[str, Callable[[], object]]:
    """Calls by name."""
    return {
        "logit_lens": lambda: ll.logit_lens(model, IDS),
        "patch_sweep": lambda: ll.patch_sweep(model, IDS, [*IDS[:9], 40, *IDS[10:]], answer=7),
        "relevance": lambda: ll.relevance(model, IDS),
        "layer_metrics, of weights": lambda: ll.layer_metrics(model, [IDS], ["weight_norm"]),
    }


def offloaded(model: LensModel, folder: Path) -> LensModel:
    """The model with all of its blocks but the first on a disk, and the rest in memory."""
    paths = [block.path for block in model.anatomy.blocks]
    inside = paths[0].rpartition(".")[0] + "."
    places = dict.fromkeys(paths, "disk") | {paths[0]: "cpu"}
    for path, module in model.hf.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own and not path.startswith(inside):
            places[path] = "cpu"
    cpu = torch.device("cpu")
    accelerate.dispatch_model(model.hf, places, cpu, offload_dir=folder, force_hooks=True)
    return model


def against_whole(whole: LensModel, spread: LensModel, repeats: int) -> None:
    def bare() -> None:
        with torch.inference_mode():
            whole.hf(torch.tensor([IDS]))

    timer = Timer(bare, repeats)
    print(f"\n| {'analysis':26} | whole, x bare | offloaded, x bare | whole, MB | offloaded, MB |")
    print("| --- | --- | --- | --- | --- |")
    both = asked(whole), asked(spread)
    for name in both[0]:
        ratios = [timer.ratios(calls[name])[0] for calls in both]
        peaks = [peak_above(calls[name]) for calls in both]
        row = [f"{ratio:.1f}" for ratio in ratios] + [f"{peak:.0f}" for peak in peaks]
        print(f"| {name:26} | {' | '.join(row)} |", flush=True)


def with_workers(model: LensModel, tokens: int, counts: tuple[int | None, ...]) -> None:
    some = installed_texts() if model.tokenizer else [IDS] * 64
    corpora = ll.texts([IDS]), ll.texts(some, limit_tokens=tokens, length=64)
    started = time.perf_counter()
    start(2)
    print(f"\nRay started in {time.perf_counter() - started:.1f} s")
    print("\n| workers | one text, s | all texts, s | residual_norm of the last layer |")
    print("| --- | --- | --- | --- |")
    for workers in counts:
        seconds = []
        for texts in corpora:
            begun = time.perf_counter()
            found = ll.layer_metrics(model, texts, ["residual_norm"], workers=workers)
            seconds.append(time.perf_counter() - begun)
        last = float(found.data.residual_norm[-1])
        one, every = seconds
        print(f"| {workers or 'none'} | {one:.1f} | {every:.1f} | {last:.6f} |", flush=True)


def by_requests(folder: Path, here: LensModel, repeats: int) -> None:
    """Requests of a remote model, rehearsed in this process: what packing them costs."""
    # nnsight wants a tokenizer, whichever: ids are given.
    tokenizer = here.tokenizer or ll.load("toy:induction").tokenizer
    there = ll.load(folder, tokenizer, remote="local")
    ids = torch.tensor([IDS])

    def bare() -> None:
        with torch.inference_mode():
            here.hf(ids)

    def calls(model: LensModel) -> dict[str, Callable[[], object]]:
        other, cells = [*IDS[:9], 40, *IDS[10:]], {"layers": [0, 1], "verify": 0}
        return {
            "record, resid_post": lambda: ll.record(model, IDS, "resid_post"),
            "logit_lens": lambda: ll.logit_lens(model, IDS),
            "patch_sweep, two layers": lambda: ll.patch_sweep(
                model, IDS, other, answer=7, wrong=8, method="naive", **cells
            ),
        }

    timer = Timer(bare, repeats)
    print(f"\n| {'by requests':26} | here, x bare | rehearsed requests, x bare |")
    print("| --- | --- | --- |")
    both = calls(here), calls(there)
    for name in both[0]:
        ratios = [timer.ratios(each[name])[0] for each in both]
        print(f"| {name:26} | {ratios[0]:.1f} | {ratios[1]:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=20_000)
    given = parser.parse_args()

    def made() -> LensModel:
        return ll.load(tiny_model("llama", **QUICK)) if given.smoke else ll.load()

    print(f"threads {torch.get_num_threads()}, T = {len(IDS)}, float32")
    before = time.perf_counter()
    if not given.smoke:
        print(ll.estimate(Path(default.find()), tokens=len(IDS)))
        print(f"told in {time.perf_counter() - before:.1f} s, before anything was loaded")
    with tempfile.TemporaryDirectory() as folder:
        whole = made()
        against_whole(whole, offloaded(made(), Path(folder)), 2 if given.smoke else given.repeats)
        if importlib.util.find_spec("nnsight"):
            place = Path(folder, "smoke") if given.smoke else Path(default.find())
            if given.smoke:
                whole.hf.save_pretrained(place)
            by_requests(place, whole, 2 if given.smoke else given.repeats)
        else:
            print("\nby requests: left out, nnsight is not installed")
        with_workers(whole, given.tokens, (None, 2) if given.smoke else (None, 1, 2))


if __name__ == "__main__":
    main()
