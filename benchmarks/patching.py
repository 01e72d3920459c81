"""What patching sweeps cost, in one run, next to the bare forward, the naive sweep and the rivals.

    python benchmarks/patching.py                     # the default model and GPT-2 small's shape
    python benchmarks/patching.py --model gpt2-shape  # only GPT-2 small with random weights
    python benchmarks/patching.py --quick             # fewer repeats, no restart, smaller samples
    python benchmarks/patching.py --smoke             # a tiny model, seconds: does it run?

Two texts that differ in one token, once late and once early; a grid of layers by positions
(resid_pre) and one of layers by heads (z at all positions). Every candidate is timed in turn with
the bare forward of the same weights in the same process, and the ratio is taken pair by pair;
what is printed is the median of the ratios, by the wall clock and by CPU time. What runs one pass
a cell (naive, TransformerLens) is timed on a sample of its cells, and scaled up to all of them.
The floor is what the engine's matrix products take, with nothing between them: no activation
functions, norms, attention or bookkeeping. TransformerLens takes part where it is installed
(``pip install -e .[rivals]``).
"""

from __future__ import annotations

import argparse
import io
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from measure import Products, bridge, gpt2_shape, rivals, tiny
from timing import Timer, peak_above

import layerlens as ll
from layerlens.analyses.answers.answer_metric import Metric, make_metric
from layerlens.analyses.contract.listeners import Silent
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.gradients import gradients
from layerlens.run.many_edits import Method, run_cells
from layerlens.run.together import record_bases

Place = tuple[int, int]
"""Layer, and position or head."""


@dataclass
class Work:
    """One grid to fill: two texts that differ at one position, and a site."""

    model: ll.LensModel
    site: str
    differing: int
    clean: torch.Tensor
    corrupt: torch.Tensor
    metric: Metric = field(init=False)

    def __post_init__(self) -> None:
        with self.model.running():
            final = record_base(self.model, self.model.tokens(self.clean)).final
            self.metric = make_metric(self.model, "logit_diff", final=final)

    @property
    def length(self) -> int:
        return self.clean.shape[1]

    @property
    def by_head(self) -> bool:
        return self.site == "z"

    def grid(self) -> list[Place]:
        """Every cell, as one who knows nothing would run them."""
        columns = self.model.n_heads if self.by_head else self.length
        return [(layer, other) for layer in range(self.model.n_layers) for other in range(columns)]

    def live(self) -> list[Place]:
        """The cells that can change anything: none left of the difference, one of block 0."""
        if self.by_head:
            return self.grid()
        at = self.differing
        return [(layer, t) for layer, t in self.grid() if t == at or (t > at and layer)]

    @property
    def sites(self) -> list[Site]:
        return [Site(self.site, layer) for layer in range(self.model.n_layers)]

    def cell(self, source: Base, place: Place) -> Cell:
        layer, other = place
        if not self.by_head:
            value = source.state(layer)[[other]]
            return Cell((Change(Site("resid_pre", layer), "set", value, (other,)),))
        positions = tuple(range(self.differing, self.length))
        value = source.trace[Site("z", layer)][0][self.differing :, other]
        return Cell((Change(Site("z", layer, other), "set", value, positions),))

    def values(self, method: Method = "auto") -> torch.Tensor:
        """The engine alone: both runs and every cell that matters, no checks and no result."""
        texts = [self.model.tokens(ids) for ids in (self.corrupt, self.clean)]
        base, source = record_bases(self.model, texts, self.sites)
        cells = [self.cell(source, place) for place in self.live()]
        found = torch.full((len(cells),), float("nan"), dtype=torch.float64)

        def take(indices: Sequence[int], final: torch.Tensor) -> None:
            found[list(indices)] = self.metric(final)

        run_cells(self.model, base, cells, take, method=method)
        return found

    def sweep(self, verify: int, listener: Silent | None = None) -> ll.Result:
        """The public call."""
        texts = {"clean": self.model.tokens(self.clean), "corrupt": self.model.tokens(self.corrupt)}
        answers = {"answer": self.metric.answer, "wrong": self.metric.wrong}
        options = {"site": self.site, "verify": verify, **answers}
        return ll.patch_sweep.run(self.model, texts, options, listener or Silent())

    def rows(self) -> tuple[int, int]:
        """Rows times blocks that are computed: by the packed sweep, and by the naive one."""
        layers, length = self.model.n_layers, self.length
        two = 2 * layers * length
        first = (lambda _: self.differing) if self.by_head else (lambda t: t)
        own = sum((layers - layer) * (length - first(other)) for layer, other in self.live())
        return two + own, two + len(self.grid()) * layers * length


def sample(places: list[Place], count: int) -> list[Place]:
    """Evenly spaced ones."""
    count = min(count, len(places))
    return [places[(2 * index + 1) * len(places) // (2 * count)] for index in range(count)]


class Naive:
    """One full forward a cell, with a plain hook; nothing of our engine."""

    def __init__(self, work: Work) -> None:
        self.work, self.hf = work, work.model.hf
        blocks = work.model.anatomy.blocks
        kind = "resid_pre" if work.site == "resid_pre" else "z"
        paths = [block.taps[kind].module for block in blocks]
        self.modules = [self.hf.get_submodule(path) for path in paths]
        self.width = None if kind == "resid_pre" else blocks[0].n_heads
        self.clean = self._inputs(work.clean)

    def _inputs(self, ids: torch.Tensor) -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []

        def keep(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            kept.append(args[0])

        hooks = [module.register_forward_pre_hook(keep) for module in self.modules]
        with torch.inference_mode():
            self.hf(input_ids=ids, use_cache=False)
        for hook in hooks:
            hook.remove()
        return kept

    def cell(self, place: Place) -> float:
        """The metric of one patched run."""
        layer, other = place

        def patch(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            state = args[0].clone()
            if self.width is None:
                state[:, other] = self.clean[layer][:, other]
            else:
                heads = state.unflatten(-1, (self.width, -1))
                heads[:, :, other] = self.clean[layer].unflatten(-1, (self.width, -1))[:, :, other]
            return (state, *args[1:])

        hook = self.modules[layer].register_forward_pre_hook(patch)
        try:
            with torch.inference_mode():
                logits = self.hf(input_ids=self.work.corrupt, use_cache=False).logits
        finally:
            hook.remove()
        return float(self.work.metric.of_logits(logits[:, -1].float())[0])

    def gradients(self) -> tuple[torch.Tensor, ...]:
        """The metric's derivatives at every layer: one pass each way."""
        kept: list[torch.Tensor] = []

        def keep(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            kept.append(args[0])

        hooks = [module.register_forward_pre_hook(keep) for module in self.modules]
        logits = self.hf(input_ids=self.work.corrupt.clone(), use_cache=False).logits
        for hook in hooks:
            hook.remove()
        return torch.autograd.grad(self.work.metric.of_logits(logits[:, -1].float())[0], kept)


def own_gradients(work: Work) -> None:
    gradients(work.model, work.model.tokens(work.corrupt), work.sites, work.metric)


class TransformerLens:
    """Its own ``patching`` module on the same weights."""

    def __init__(self, model: ll.LensModel) -> None:
        self.bridge = bridge(model)
        self.bridge.eval()

    def cells(self, work: Work, places: list[Place]) -> Callable[[], torch.Tensor]:
        """Its sweep over some cells; the clean run's cache is made beforehand."""
        import pandas as pd
        from transformer_lens import patching

        name = "z" if work.by_head else "resid_pre"
        setter = (
            patching.layer_head_vector_patch_setter
            if work.by_head
            else patching.layer_pos_patch_setter
        )
        columns = ["layer", "head" if work.by_head else "pos"]
        wanted = "hook_" + name
        with torch.inference_mode():
            _, cache = self.bridge.run_with_cache(
                work.clean, names_filter=lambda hook: hook.endswith(wanted)
            )

        def run() -> torch.Tensor:
            with torch.inference_mode(), redirect_stderr(io.StringIO()):  # its progress bar
                return patching.generic_activation_patch(
                    model=self.bridge,
                    corrupted_tokens=work.corrupt,
                    clean_cache=cache,
                    patching_metric=lambda logits: work.metric.of_logits(logits[:, -1])[0].float(),
                    patch_setter=setter,
                    activation_name=name,
                    index_df=pd.DataFrame(places, columns=columns),
                )

        return run

    def gradients(self, work: Work) -> None:
        """The same derivatives through its hooks."""
        kept: list[torch.Tensor] = []
        name = "attn.hook_z" if work.by_head else "hook_resid_pre"

        # What it shows of a head is a copy, part of the graph only where it is given back.
        def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:
            kept.append(value)
            return value

        wanted = [(f"blocks.{layer}.{name}", keep) for layer in range(work.model.n_layers)]
        logits = self.bridge.run_with_hooks(work.corrupt, fwd_hooks=wanted)
        torch.autograd.grad(work.metric.of_logits(logits[:, -1].float())[0], kept)


class FirstCells(Silent):
    """Notes when the first cells that were run (not filled in) were handed over."""

    def __init__(self) -> None:
        self.seconds = float("nan")
        self.start = time.perf_counter()

    def on_progress(self, done: int, total: int, what: str) -> None:
        if math.isnan(self.seconds):
            self.seconds = time.perf_counter() - self.start


def show(name: str, ratios: tuple[float, float, float], scale: float = 1, remark: str = "") -> None:
    wall, cpu, _ = ratios
    print(f"  {name:44}{scale * wall:8.1f}{scale * cpu:8.1f}  {remark}".rstrip(), flush=True)


def report(work: Work, timer: Timer, rival: TransformerLens | None, quick: bool) -> None:
    """Measure one grid and print its table."""
    grid, live = work.grid(), work.live()
    own, naive_rows = work.rows()
    what = "layers x heads, z" if work.by_head else "layers x positions, resid_pre"
    print(f"\n {what}; the texts differ at position {work.differing} of {work.length}")
    print(
        f" {len(grid)} cells, {len(live)} of them can matter; packed computes {own:,} of the naive "
        f"sweep's {naive_rows:,} rows x blocks (1 of {naive_rows / own:.0f})"
    )
    found = work.values()  # before any timing: it also finds the method for this model
    floor, single = Products(work.values), Products(timer.bare)
    needed = f"{floor.multiply_adds / single.multiply_adds:.1f} x bare's multiply-adds"
    show("floor: the engine's matrix products alone", timer.ratios(floor.again), remark=needed)
    show("layerlens, engine alone", timer.ratios(work.values))
    show("layerlens, patch_sweep(verify=0)", timer.ratios(partial(work.sweep, 0)))
    show("layerlens, patch_sweep with its checks", timer.ratios(partial(work.sweep, 2)))
    once = Timer(timer.bare, 1)
    if not quick:
        show("layerlens, restart at the layer", once.ratios(partial(work.values, "restart")))
    naive = Naive(work)
    cells = sample(live, 6 if quick else 24)
    scaled = f"scaled up from {len(cells)} cells"
    ratios = once.ratios(lambda: [naive.cell(place) for place in cells])
    show("naive: one forward a cell, plain hook", ratios, len(grid) / len(cells), scaled)
    if rival is not None:
        ratios = once.ratios(rival.cells(work, cells))
        show("TransformerLens patching", ratios, len(grid) / len(cells), scaled)
    print("  one pass each way, derivatives at every layer")
    show("layerlens, as in attribution_patch", timer.ratios(lambda: own_gradients(work)))
    show("plain hooks", timer.ratios(naive.gradients))
    if rival is not None:
        show("TransformerLens", timer.ratios(lambda: rival.gradients(work)))
    close(work, timer, found, naive, cells)


def close(work: Work, timer: Timer, found: torch.Tensor, naive: Naive, cells: list[Place]) -> None:
    """Agreement with the naive run, memory, and the wait for the first cells."""
    live = work.live()
    error = max(abs(float(found[live.index(place)]) - naive.cell(place)) for place in cells)
    size = max(abs(naive.cell(place)) for place in cells)
    print(
        f" largest difference from the naive run in {len(cells)} cells: {error:.1e} "
        f"(largest metric {size:.2f})"
    )
    print(f" peak memory of the engine above the model: {peak_above(work.values):.0f} MB")
    waits = []
    for _ in range(timer.repeats):
        bare, first = Timer.once(timer.bare)[0], FirstCells()
        work.sweep(2, first)
        waits.append((first.seconds / bare, first.seconds))
    ratio, seconds = statistics.median_low(waits)
    print(f" first cells after {seconds:.2f} s ({ratio:.1f} x bare)", flush=True)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=("both", "default", "gpt2-shape"), default="both")
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.model, arguments.length = "tiny", 8
        arguments.repeats = arguments.threads = 1
    torch.set_num_threads(arguments.threads)
    with_rival = bool(rivals("transformer_lens"))
    makers = {"default": ll.load, "gpt2-shape": gpt2_shape, "tiny": tiny}
    chosen = ["default", "gpt2-shape"] if arguments.model == "both" else [arguments.model]
    for name in chosen:
        model = makers[name]()
        rival = TransformerLens(model) if with_rival else None
        torch.manual_seed(1)
        clean = torch.randint(100, model.d_vocab - 100, (1, arguments.length))

        def bare(model: ll.LensModel = model, ids: torch.Tensor = clean) -> None:
            with torch.inference_mode():
                model.hf(input_ids=ids, use_cache=False)

        timer = Timer(bare, 2 if arguments.quick else arguments.repeats)
        load = os.getloadavg()[0]
        print(f"\n{arguments.threads} threads, {model.dtype}, torch {torch.__version__}", end="")
        print(f", load {load:.1f}\n{model.name}: bare forward {timer.ratios(bare)[2]:.3f} s")
        print(f"  {'as multiples of the bare forward':44}{'wall':>8}{'cpu':>8}")
        for site in ("resid_pre", "z"):
            for differing in (arguments.length * 11 // 16, 1):
                corrupt = clean.clone()
                corrupt[0, differing] += 1
                report(Work(model, site, differing, clean, corrupt), timer, rival, arguments.quick)


if __name__ == "__main__":
    main()
