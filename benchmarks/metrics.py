"""What measuring layers costs, next to the bare forward: one metric, all of them, a corpus.

    python benchmarks/metrics.py                  # tens of minutes on two cores
    python benchmarks/metrics.py --quick          # a few metrics, a tenth of the corpus
    python benchmarks/metrics.py --tokens 50_000  # another corpus size
    python benchmarks/metrics.py --only memory    # one of the four tables
    python benchmarks/metrics.py --smoke          # the small model alone: does it run?

Four tables. The first has every metric alone and sets of them on one batch, timed in turn with
the bare forward of the same weights in the same process; the ratio is taken pair by pair, and what
is printed is the median of the ratios, by the wall clock and by CPU time. ``at the end`` is what is
computed once however long the corpus is (intervals, comparisons of depths), in CPU seconds.

The second says what each metric's own work is, in CPU time, without the pass that hands it the
layers: ``alone`` is above a pass that records the same parts and measures nothing, ``in the set``
is above the pass of all other metrics, with which it shares what it can; small values are noise.

The third has tokens per second over a corpus: docstrings of the Python standard library that runs
this file. All of it goes through a small Llama with random weights and the default model's
vocabulary, since two cores need many minutes to run the default model over 200,000 tokens; the
default model reads a part (``--part``). The fourth has the peak memory for a tenth of the corpus
and for all of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch
from timing import Timer, peak_above

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.measuring.layer_metrics import DEFAULT
from layerlens.corpus.installed import docstrings
from layerlens.metrics import registry
from layerlens.metrics.base import LayerMetric, ModelShape, WeightMetric
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics
from layerlens.model.text import Tokens

TOO_LARGE = ("cka_exact",)
"""Not in `all`: its memory is the square of depths times width, 2.6 GB for the default model."""

LENGTH = 256
"""Of the rows into which the corpus is packed."""

QUICK = ("residual_norm", "block_influence", "angular_distance", "cka", "sink_mass")


TABLES = ("costs", "each", "corpus", "memory")


def metrics_of(model: ll.LensModel) -> tuple[list[str], list[str]]:
    """Names of the metrics that read a pass of this model, and of those that read its weights."""
    known = {name: kind for name, kind in registry.every().items() if name not in TOO_LARGE}
    weights = [name for name, kind in known.items() if issubclass(kind, WeightMetric)]
    passes = [name for name in known if name not in weights]
    return [name for name in passes if not known[name].missing(model)], weights


def reads_patterns(name: str) -> bool:
    """Whether a metric needs attention patterns, which the model then has to write out."""
    kind = registry.get(name)
    return issubclass(kind, LayerMetric) and "pattern" in kind.parts


def library_docstrings() -> Iterator[str]:
    """Docstrings of the standard library, in the order of its files, without its tests."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted([*library.glob("*.py"), *library.glob("[a-z]*/*.py")]):
        if path.parent.name in ("lib2to3", "test"):
            continue
        yield from docstrings(path.read_text(encoding="utf-8"))


def small(like: ll.LensModel, words: int | None = None) -> ll.LensModel:
    """A Llama of six narrow blocks with random weights that reads the same tokens, or more."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words or like.d_vocab,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    hf = LlamaForCausalLM(config).eval()
    return ll.load(hf, like.tokenizer, name="small Llama, 6 blocks of width 128, random weights")


def bare(model: ll.LensModel, ids: torch.Tensor) -> Callable[[], None]:
    """One forward, no hooks."""

    def run() -> None:
        with torch.inference_mode():
            model.hf(input_ids=ids, use_cache=False)

    return run


def headless(model: ll.LensModel, ids: torch.Tensor) -> Callable[[], None]:
    """The same without the head, whose logits no metric needs."""

    def run() -> None:
        with torch.inference_mode():
            model.hf.base_model(input_ids=ids, use_cache=False)

    return run


class Working(MetricSet):
    """Records what all metrics of a set read, while some of them measure nothing."""

    def __init__(self, whole: MetricSet, idle: Sequence[str]) -> None:
        working = [metric for metric in whole.metrics if metric.name not in idle]
        super().__init__(whole.shape, working, whole.skip_first)
        self.recorded = whole.parts

    @property
    def parts(self) -> set[str]:
        """All that is read by the whole set."""
        return self.recorded


class Measuring:
    """Some metrics over one batch: the pass, and what is done when all passes are over.

    The pass records what all of the metrics read; those that are ``idle`` measure nothing.
    """

    def __init__(
        self,
        model: ll.LensModel,
        names: Sequence[str],
        tokens: Tokens,
        idle: Sequence[str] = (),
    ) -> None:
        self.model, self.batches, self.idle = model, split(tokens, len(tokens.ids)), idle
        self.fresh = MetricSet.make(model, list(names), skip_first=True)
        self.filled: MetricSet = self.fresh

    def one_pass(self) -> None:
        self.filled = Working(self.fresh.empty(), self.idle)
        with self.model.running():
            run_metrics(self.model, self.batches, self.filled)

    def end(self) -> None:
        self.filled.values()


def costs(model: ll.LensModel, rows: int, length: int, repeats: int, quick: bool) -> None:
    """The first table."""
    ids = torch.randint(100, model.d_vocab - 100, (rows, length))
    tokens = model.tokens(ids)
    timer = Timer(bare(model, ids), repeats)
    seconds = timer.ratios(timer.bare)[2]
    print(f"\n{model.name}, {rows} x {length} tokens: bare forward {seconds:.2f} s")
    print(f"  {'multiples of the bare forward':36}{'wall':>8}{'cpu':>8}  at the end, s", flush=True)
    wall, cpu, _ = timer.ratios(headless(model, ids))
    print(f"  {'forward without the head':36}{wall:8.2f}{cpu:8.2f}")
    names, weights = metrics_of(model)
    no_patterns = [name for name in names if not reads_patterns(name)]
    sets: dict[str, Sequence[str]] = {
        f"the default {len(DEFAULT)}": DEFAULT,
        f"all {len(no_patterns)} without attention patterns": no_patterns,
        f"all {len(names)}": names,
    }
    alone = [name for name in names if name in QUICK] if quick else names
    for words, chosen in {**sets, **{name: [name] for name in alone}}.items():
        work = Measuring(model, chosen, tokens)
        wall, cpu, _ = timer.ratios(work.one_pass)
        print(f"  {words:36}{wall:8.2f}{cpu:8.2f}{Timer.once(work.end)[1]:8.2f}", flush=True)
    print("  of the weights, no pass, CPU seconds (singular values are taken once for all):")
    for name in weights[:1] if quick else weights:
        kind = registry.make(name, model, ModelShape.of(model), {})
        assert isinstance(kind, WeightMetric)
        with model.running():
            cpu = Timer.once(partial(kind.compute, model))[1]
        print(f"  {name:36}{cpu:24.2f}", flush=True)


def each(model: ll.LensModel, rows: int, length: int, repeats: int, quick: bool) -> None:
    """The second table."""
    ids = torch.randint(100, model.d_vocab - 100, (rows, length))
    tokens = model.tokens(ids)
    timer = Timer(bare(model, ids), repeats)
    names = metrics_of(model)[0]
    print(f"\n{model.name}, {rows} x {length} tokens: a metric's own work")
    print(f"  {'multiples of the bare forward, cpu':36}{'alone':>8}{'in the set':>12}", flush=True)
    whole = Measuring(model, names, tokens).one_pass
    for name in [name for name in names if name in QUICK] if quick else names:
        recording = Measuring(model, [name], tokens, idle=[name]).one_pass
        alone = timer.between(recording, Measuring(model, [name], tokens).one_pass)
        others = Measuring(model, names, tokens, idle=[name]).one_pass
        print(f"  {name:36}{alone:8.2f}{timer.between(others, whole):12.2f}", flush=True)


class Corpus:
    """Docstrings up to a number of tokens, packed, and the passes that measuring them takes."""

    def __init__(self, model: ll.LensModel, documents: Sequence[str], tokens: int) -> None:
        self.model = model
        self.texts = ll.texts(list(documents), limit_tokens=tokens, pack=True, length=LENGTH)
        self.counts = self.texts.count(model)
        self.shapes: list[tuple[int, int]] = []

    def measure(self, names: Sequence[str]) -> None:
        """The public call."""
        options = {"metrics": list(names)}
        ll.layer_metrics.run(self.model, self.texts, options, Silent())

    def see(self, names: Sequence[str]) -> None:
        """Measure, and note the shape of every pass."""
        first = self.model.hf.get_submodule(self.model.anatomy.blocks[0].path)

        def note(_: object, args: tuple[torch.Tensor, ...]) -> None:
            self.shapes.append((args[0].shape[0], args[0].shape[1]))

        hook = first.register_forward_pre_hook(note)
        self.measure(names)
        hook.remove()

    def forwards(self, run: Callable[[ll.LensModel, torch.Tensor], Callable[[], None]]) -> None:
        """Nothing but forwards of these shapes."""
        for shape in self.shapes:
            run(self.model, torch.randint(100, self.model.d_vocab - 100, shape))()


def speed(corpus: Corpus) -> None:
    """The third table, for one model."""
    names = metrics_of(corpus.model)[0]
    works: dict[str, Callable[[], None]] = {
        f"the default {len(DEFAULT)}": lambda: corpus.see(DEFAULT),
        f"all {len(names)}": lambda: corpus.measure(names),
        "bare forwards of the same shapes": lambda: corpus.forwards(bare),
        "these without the head": lambda: corpus.forwards(headless),
    }
    seconds = {words: Timer.once(work) for words, work in works.items()}
    base = seconds["bare forwards of the same shapes"][1]
    tokens = corpus.counts.tokens
    print(f"\n{corpus.model.name}: {corpus.counts.texts:,} docstrings, {tokens:,} tokens", end=" ")
    print(f"in rows of {LENGTH}, {len(corpus.shapes)} passes")
    print(f"  {'':36}{'tokens/s':>10}{'per CPU s':>11}{'cpu, x bare':>13}")
    for words, (wall, cpu) in seconds.items():
        rates = f"{tokens / wall:10,.0f}{tokens / cpu:11,.0f}"
        print(f"  {words:36}{rates}{cpu / base:13.2f}", flush=True)


def narrow(smoke: bool) -> ll.LensModel:
    """The small model that reads the default model's tokens; few words are enough for a smoke."""
    if not smoke:
        return small(ll.load())
    toy = ll.load("toy:induction")
    toy.tokenizer.eos_token = toy.tokenizer.bos_token  # joins the texts of a row
    return small(toy, 400)


def peak(
    names: Sequence[str], documents: Sequence[str], tokens: int, threads: int, smoke: bool
) -> float:
    """Peak memory of measuring so many tokens, in a process that has measured nothing before."""
    torch.set_num_threads(threads)
    corpus = Corpus(narrow(smoke), documents, tokens)
    return peak_above(partial(corpus.measure, names))


def memory(
    model: ll.LensModel,
    documents: Sequence[str],
    sizes: Sequence[int],
    threads: int,
    smoke: bool,
) -> None:
    """The fourth table."""
    names = metrics_of(model)[0]
    print(f"\n{model.name}: peak memory above what was resident before, MB")
    print(f"  {'tokens':>36}{f'default {len(DEFAULT)}':>12}{f'all {len(names)}':>12}", flush=True)
    for size in sizes:
        found = []
        for chosen in (DEFAULT, names):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                asked = pool.submit(peak, chosen, documents, size, threads, smoke)
                found.append(asked.result())
        print(f"  {size:36,}{found[0]:12.0f}{found[1]:12.0f}", flush=True)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=200_000, help="of the small model's corpus")
    parser.add_argument("--part", type=int, default=8_000, help="tokens for the default model")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", choices=TABLES, help="one of the tables")
    arguments = parser.parse_args()
    smoke, tokens, part = arguments.smoke, arguments.tokens, arguments.part
    if smoke:
        tokens, part, arguments.length, arguments.quick = 600, 300, 16, True
        arguments.repeats = arguments.threads = 1
    torch.set_num_threads(arguments.threads)
    if arguments.quick:
        tokens, part = min(tokens, 20_000), min(part, 2_000)
    model = narrow(smoke) if smoke else ll.load()
    load = os.getloadavg()[0]
    print(f"{arguments.threads} threads, {model.dtype}, torch {torch.__version__}, load {load:.1f}")
    wanted = [arguments.only] if arguments.only else TABLES
    if "costs" in wanted:
        costs(model, arguments.rows, arguments.length, arguments.repeats, arguments.quick)
    if "each" in wanted:
        each(model, arguments.rows, arguments.length, arguments.repeats, arguments.quick)
    documents = list(islice(library_docstrings(), 40 if smoke else None))
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"\nCorpus: {len(documents):,} docstrings of Python {version}'s standard library")
    few = model if smoke else small(model)
    if "corpus" in wanted:
        speed(Corpus(few, documents, tokens))
        if few is not model:
            speed(Corpus(model, documents, part))
    if "memory" in wanted:
        sizes = [tokens] if smoke else [tokens // 10, tokens]
        memory(few, documents, sizes, arguments.threads, smoke)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
