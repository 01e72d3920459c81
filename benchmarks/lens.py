"""What recording and the logit lens cost, in one run, next to the bare forward and the rivals.

    python benchmarks/lens.py                     # the default model
    python benchmarks/lens.py --model gpt2-shape  # GPT-2 small with random weights
    python benchmarks/lens.py --smoke             # a tiny model, seconds: does it run?

Every candidate is timed in turn with the bare forward of the same weights in the same
process, and the ratio is taken pair by pair; what is printed is the median of the ratios,
by the wall clock and by CPU time. TransformerLens and nnsight take part where they are
installed (``pip install -e .[rivals]``).
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable

import torch
from fitting import report_fitted
from measure import bridge, gpt2_shape, rivals, tiny
from timing import Timer, peak_above
from writing import report_writing

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.lenses.jacobian.plan import MOST_ROWS
from layerlens.analyses.lenses.jacobian.prompt import FUTURE, Prompt, weights_of
from layerlens.analyses.lenses.points import lens_points

TOP_K = 10


class FirstRow(Silent):
    """Notes when the first row of a lens was handed over (other parts may come before it)."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.start = time.perf_counter()

    def on_emit(self, where: object, arrays: dict[str, object]) -> None:
        if self.seconds is None and "entropy" in arrays:
            self.seconds = time.perf_counter() - self.start


def first_row(
    model: ll.LensModel, tokens: object, bare: Callable[[], object]
) -> tuple[float, float]:
    """Seconds to the first row, and what one block and one head product cost together."""
    listener = FirstRow()
    ll.logit_lens.run(model, tokens, {"top_k": TOP_K}, listener)
    floor = statistics.median(Timer.once(bare)[0] for _ in range(3)) / model.n_layers
    rows = torch.randn(tokens.ids.shape[-1], model.d_model)
    with torch.inference_mode():
        floor += statistics.median(Timer.once(lambda: model.unembed(rows))[0] for _ in range(3))
    return listener.seconds, floor


def candidates(model: ll.LensModel, tokens: object) -> dict[str, Callable[[], object]]:
    """layerlens' own work."""
    stream = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
    blocks = {"points": ("post",), "top_k": TOP_K}
    return {
        "record the stream and sublayers": lambda: ll.record(model, tokens, stream),
        "record these and all patterns": lambda: ll.record(model, tokens, [*stream, "pattern"]),
        "lens, block outputs": lambda: ll.logit_lens.run(model, tokens, blocks, Silent()),
        "lens, every point": lambda: ll.logit_lens.run(model, tokens, {"top_k": TOP_K}, Silent()),
    }


def head_product(model: ll.LensModel, rows: int) -> Callable[[], object]:
    """The floor's second part: so many rows through the head in chunks of 128, nothing else."""
    matrix = model.head_matrix()
    x = torch.randn(128, model.d_model)
    out = torch.empty(128, model.d_vocab)

    def work() -> None:
        with torch.inference_mode():
            for _ in range(max(1, round(rows / 128))):
                torch.mm(x, matrix.weight.T, out=out)

    return work


def transformer_lens(model: ll.LensModel, ids: torch.Tensor) -> dict[str, Callable[[], object]]:
    """TransformerLens (bridge) on the same weights."""
    rival = bridge(model)
    names = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")

    def record() -> None:
        with torch.inference_mode():
            rival.run_with_cache(ids, names_filter=lambda name: name.endswith(names))

    def lens() -> None:
        with torch.inference_mode():
            wanted = lambda name: name.endswith("hook_resid_post")  # noqa: E731
            _, cache = rival.run_with_cache(ids, names_filter=wanted)
            for layer in range(model.n_layers):
                state = cache[f"blocks.{layer}.hook_resid_post"]
                _summary(rival.unembed(rival.ln_final(state))[0])

    return {"TransformerLens: record": record, "TransformerLens: lens, block outputs": lens}


def nnsight(model: ll.LensModel, ids: torch.Tensor) -> dict[str, Callable[[], object]]:
    """nnsight on the same weights, the lens inside the trace."""
    from nnsight import NNsight

    hf = copy.deepcopy(model.hf)
    wrapped = NNsight(hf)
    head = model.anatomy.head
    norm_path, head_path = head.norm, head.head

    def at(path: str) -> object:
        place = wrapped
        for part in path.split("."):
            place = place[int(part)] if part.isdigit() else getattr(place, part)
        return place

    paths = [block.path for block in model.anatomy.blocks]

    def record() -> None:
        with torch.inference_mode(), wrapped.trace(ids):
            [at(path).output for path in paths].save()

    def lens() -> None:
        norm = hf.get_submodule(norm_path)
        unembedding = hf.get_submodule(head_path)
        with torch.inference_mode(), wrapped.trace(ids):
            [_summary(unembedding(norm(at(path).output))[0]) for path in paths].save()

    return {"nnsight: record block outputs": record, "nnsight: lens, block outputs": lens}


def _summary(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    log_p = logits.float().log_softmax(-1)
    return log_p.topk(TOP_K), -(log_p.exp() * log_p).sum(-1)


def bytes_sent(model: ll.LensModel, tokens: object) -> tuple[int, int]:
    """Bytes of the frames of one lens, and the least: ids (4 bytes), log p and entropy (2 each)."""
    from layerlens.export.pack import frames_of

    result = ll.logit_lens.run(model, tokens, {"top_k": TOP_K}, Silent())
    sent = sum(len(buffer) for _, buffers in frames_of(result.data) for buffer in buffers)
    points, length = result.data.sizes["point"], result.data.sizes["position"]
    return sent, points * length * (TOP_K * (4 + 2) + 2)


def report(model: ll.LensModel, length: int, repeats: int, installed: list[str]) -> None:
    """Measure one length and print its table."""
    ids = torch.randint(100, model.d_vocab - 100, (1, length))
    tokens = model.tokens(ids)

    def bare() -> None:
        with torch.inference_mode():
            model.hf(input_ids=ids, use_cache=False)

    timer = Timer(bare, repeats)
    print(f"\n{model.name}, {length} tokens: bare forward {timer.ratios(bare)[2]:.3f} s")
    print(f"{'':42}{'wall':>7}{'cpu':>7}{'  of floor':>10}{'  peak MB':>10}")
    post = timer.ratios(head_product(model, model.n_layers * length))
    points = len(model.anatomy.points())
    every = timer.ratios(head_product(model, points * length))
    floors = {"block outputs": 1 + post[1], "every point": 1 + every[1]}
    others: dict[str, Callable[[], object]] = {}
    for rival in installed:
        others |= {"transformer_lens": transformer_lens, "nnsight": nnsight}[rival](model, ids)
    for name, work in {**candidates(model, tokens), **others}.items():
        wall, cpu, _ = timer.ratios(work)
        floor = next((cpu / value for key, value in floors.items() if key in name), None)
        of_floor = f"{floor:10.2f}" if floor and "lens" in name else " " * 10
        print(f"{name:42}{wall:7.2f}{cpu:7.2f}{of_floor}{peak_above(work):10.0f}")
    first, least = first_row(model, tokens, bare)
    sent, least_bytes = bytes_sent(model, tokens)
    print(f"first row after {first:.3f} s (one block and one head product: {least:.3f} s)")
    print(
        f"{sent / 1e6:.3f} MB to the browser "
        f"({sent / least_bytes:.2f} x the least for ids, log p and entropy)"
    )
    report_fitted(model, ids, repeats)
    report_writing(model, ids, repeats)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=("default", "gpt2-shape"), default="default")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.model, arguments.lengths = "tiny", [8]
        arguments.repeats = arguments.threads = 1
    torch.set_num_threads(arguments.threads)
    installed = rivals("transformer_lens", "nnsight")
    model = {"default": ll.load, "gpt2-shape": gpt2_shape, "tiny": tiny}[arguments.model]()
    load = os.getloadavg()[0]
    print(f"{arguments.threads} threads, {model.dtype}, torch {torch.__version__}, load {load:.1f}")
    for length in arguments.lengths:
        report(model, length, arguments.repeats, installed)
    report_neurons(model)
    report_jacobian(model, max(arguments.lengths[0], 4))


def report_jacobian(model: ll.LensModel, length: int) -> None:
    """Print what a text costs in the fit of a Jacobian lens, from some of its rows."""
    tokens = model.tokens(torch.randint(3, model.d_vocab - 3, (1, length)))
    points = lens_points(model, ("embed", "post"))[:-1]
    weights = weights_of(length, min(16, length - 2), FUTURE, (0, 0))
    rows = min(MOST_ROWS, model.d_model)
    prompt = Prompt(model, tokens, points, weights, rows, lambda: None)
    cotangents = torch.eye(model.d_model)[:rows]
    seconds, cpu = Timer.once(lambda: prompt.pull(cotangents))
    times = model.d_model / rows
    print(
        f"Jacobian lens, {length} tokens, all layers: {seconds * times:.1f} s a text, "
        f"CPU {cpu * times:.1f} s ({model.d_model} rows, {rows} at once)"
    )


def report_neurons(model: ll.LensModel) -> None:
    """Print what the tokens of all neurons cost, once, beside their product with the head alone."""
    seconds = counted = 0.0

    def work() -> None:
        nonlocal seconds, counted
        start = time.perf_counter()
        found = ll.neuron_tokens.run(model, {}, {"k": 5}, Silent())
        seconds, counted = time.perf_counter() - start, float(found.data.prominence.notnull().sum())

    size = peak_above(work)
    floor, _ = Timer.once(head_product(model, round(counted)))
    print(f"tokens of {counted:,.0f} neurons: {seconds:.1f} s, {size:.0f} MB; head {floor:.1f} s")


if __name__ == "__main__":
    main()
