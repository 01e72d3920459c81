"""Where reading the token becomes predicting the next one, and how much of that is a bigram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses.bigram_counts import SMOOTHINGS, Bigrams
from layerlens.analyses.lenses.bigram_reading import (
    AGAINST,
    CONTEXTS,
    CURVES,
    KS,
    TOKENS,
    BigramRun,
)
from layerlens.analyses.lenses.blocks_alone import BlocksAlone, orders
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS, count_kept, rows_of, text_of
from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.analyses.lenses.readers import Lens, Reader, reader_of, told_reader
from layerlens.analyses.lenses.state_maps import InputLens, moment_bytes, turns, within
from layerlens.errors import InputError
from layerlens.model.integers import is_whole
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 400_000_000

_R = "correlation with a counted model"
VARIABLES = {
    **with_interval(
        "correlation",
        Variable(("point", "model"), "float32", "1", _R, signed=True),
    ),
    **with_interval(
        "ce",
        Variable(("point", "context"), "float32", "nats", "cross-entropy of the next token"),
    ),
    **with_interval(
        "recall",
        Variable(("point", "top", "token"), "float32", "1", "share of tokens among the k on top"),
    ),
    **with_interval(
        "input_recall",
        Variable(
            ("point", "top"),
            "float32",
            "1",
            "share of current tokens among the k nearest embeddings",
        ),
    ),
    "rotation": Variable(
        ("point", "turn"), "float32", "rad", "mean angle of the map from the state before"
    ),
    **with_interval(
        "alone_correlation",
        Variable(("kept", "against"), "float32", "1", f"{_R}, some blocks alone", signed=True),
    ),
    **with_interval(
        "alone_ce",
        Variable(
            ("kept",), "float32", "nats", "cross-entropy of the next token, some blocks alone"
        ),
    ),
    **with_interval(
        "counted_ce",
        Variable(
            ("against",), "float32", "nats", "cross-entropy of the next token by the counted model"
        ),
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    lens: Lens,
    points: str | Sequence[str],
    positions_skipped: int,
    test: float,
    alone: int,
    input_lens: bool,
    rotation: bool,
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes, rows through the head and bytes of one call; reads the texts, runs nothing."""
    chosen = _points(model, reader_of(model, lens), points)
    rows = rows_of(model, tokens)
    kept = test * count_kept(rows, positions_skipped)
    blocks = orders(model.n_layers, alone) if alone else {}
    replayed = sum(map(len, blocks.values())) / model.n_layers
    passes = test * (3 + bool(alone) + replayed)
    share, operations = memory_limit // 2, 0.0
    for maps, asked in ((1, input_lens), (2, rotation)):
        if asked:
            fitted = len(chosen) - (maps == 2)
            passes += (1 - test) * len(within(model, fitted, maps, share))
            taught = (1 - test) * sum(len(row.ids) for row in rows)
            operations += 4 * maps * len(chosen) * taught * model.d_model**2
    read = len(chosen) * (2 + input_lens) + len(blocks)
    held = (len(chosen) + 4) * BATCH_TOKENS * model.d_model * model.dtype.itemsize
    held += 4 * model.d_vocab_in * model.d_model if input_lens else 0
    sums = share // moment_bytes(model) * moment_bytes(model) if input_lens or rotation else 0
    fed = sum(len(row.ids) for row in rows)
    return Work(passes, round(read * kept), held + sums + share, fed, operations)


@analysis(
    name="bigram_layers",
    question="Where do states turn from the token that was read to the next one, and is that a "
    "bigram?",
    source="Chang and Bergen (2025), Bigram Subnetworks: Mapping to Next Tokens in Transformer "
    "Language Models, arXiv 2504.15471",
    cost="3 passes over the texts set apart (4 with alone), the head on each of their tokens twice "
    "a point; with input_lens or rotation also 1 pass over the others or more, as memory allows",
    view="curves",
    lead="Where the correlation with the bigram model is as high in shuffled pairs as in the text, "
    "and above that with the unigram model, a layer says what follows the present token alone.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    needs=("head", "causal"),
)
def bigram_layers(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    lens: Lens = "logit",
    points: str | Sequence[str] = ("embed", "post"),
    smoothing: str = "backoff",
    alpha: float = 0.1,
    positions_skipped: int = 1,
    alone: int = 2,
    input_lens: bool = False,
    rotation: bool = False,
    test: float = 0.5,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Compare what each layer would answer with a bigram model that was counted on other texts.

    Some texts are set apart and measured; tokens and pairs of neighbours are counted on the others.
    At each point a lens gives the surprisal of every next token, and ``correlation`` (Pearson's)
    says how it goes with that of the counted ``bigram`` model, and of the ``unigram`` model, which
    knows no context at all. The same pairs of neighbours are then measured in ``shuffled pairs``:
    each text cut into pairs whose order is drawn, so that of its context a token keeps nothing but
    itself. What is a bigram stays; what needs more goes.

    Parameters
    ----------
    lens
        How states are read: ``"logit"``, what ``ll.fit_lens`` returns, or the path of its file.
    points
        Kinds of points or labels.
    smoothing
        ``"backoff"`` (absolute discounting, the unigram model for what was not seen) or ``"add"``
        (``alpha`` to every pair).
    alpha
        What is added to every count: of tokens, and with ``"add"`` of pairs.
    positions_skipped
        Tokens at the beginning of each text that do not count; they keep their place.
    alone
        Up to how many of the first and of the last blocks are run by themselves, in all
        combinations, between the embedding and the head; 0 for none.
    input_lens
        Whether to fit at each point a map to the embedding of the present token (ridge, towards the
        identity, on the texts that are counted), and measure how often it finds that token.
    rotation
        Whether to fit the map from each point to the next one likewise, and tell the mean angle of
        its eigenvalues. With fewer tokens than a state has entries it stays small where it is not
        known.
    test
        Share of the texts that is measured; whole texts, or groups.
    seed
        Of the texts set apart, of the shuffled pairs and of random tokens.
    memory_limit

    Notes
    -----
    ``recall`` is the share of tokens with the ``current``, the ``next`` or, as a control, a
    ``random`` token (drawn as the counted texts have them) among the ``top`` ones of the lens.
    ``kept`` are the blocks that were run by themselves; ``no block`` and all of them are the ends
    between which they lie. ``counted_ce`` is how good the counted models are themselves: few texts
    make a poor bigram model, and then a correlation with it says little. All are means over tokens;
    intervals are over texts. The control of ``rotation`` leads each state to that of another token.

    Raises
    ------
    InputError
        An option does not fit, a side has no text, or no token counts.
    ModelError
        ``input_lens`` of a model whose embeddings are not as wide as its states.
    MemoryLimitError
        The limit is too small for the head, or for one map.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> found = ll.bigram_layers(model, texts)
    >>> found.data.correlation.dims
    ('point', 'model')
    """
    _check(model, smoothing, alpha, alone)
    reader = told_reader(job, model, lens)
    chosen = _points(model, reader, points)
    rows, split = rows_of(model, tokens), job.split(seed, test)
    taught, measured = (
        [row for row in rows if split.is_test(text_of(row)) is side] for side in (False, True)
    )
    if not any(len(row.ids) > positions_skipped + 1 for row in measured):
        raise InputError(
            f"No token of the texts set apart counts when the first {positions_skipped} do not: "
            "give longer texts, or a smaller positions_skipped."
        )
    counted = Bigrams([row.ids for row in taught], model.d_vocab, smoothing, alpha)
    blocks = orders(model.n_layers, alone) if alone else {}
    _declare(job, chosen, blocks, input_lens=input_lens, rotation=rotation)
    head, share, passes = Head.of(model, memory_limit // 2), memory_limit // 2, 3
    nearest_token = InputLens(model) if input_lens else None
    if nearest_token is not None:
        passes += nearest_token.fit(model, taught, chosen, share, job.tick)
    run = BigramRun(job, model, reader, chosen, head, counted, measured, positions_skipped, seed)
    run.texts(nearest_token)
    run.pairs()
    if rotation:
        angles, more = turns(model, taught, chosen, share, job.tick)
        job.emit({}, {"rotation": angles.T.astype(np.float32)})
        passes += more
    if alone:
        by_themselves = BlocksAlone(job, model, head, counted, blocks, positions_skipped)
        by_themselves.run(measured)
        what = "all blocks by themselves against the model's last state, of its largest entry"
        limit = logit_tolerance(model.dtype)
        job.check("all blocks give the model's last state", by_themselves.error, limit, what)
    job.note(passes=passes + bool(alone), lens=reader.name, counted_pairs=counted.pairs.total())
    run.check()


def _check(model: LensModel, smoothing: str, alpha: float, alone: int) -> None:
    if smoothing not in SMOOTHINGS:
        raise nearest(str(smoothing), list(SMOOTHINGS), "smoothing")
    if not alpha > 0:
        raise InputError(f"alpha is {alpha!r}; expected a number above 0.")
    if not is_whole(alone) or not 0 <= alone <= model.n_layers:
        raise InputError(
            f"alone is {alone!r}; expected a whole number from 0 to {model.n_layers}, the layers."
        )


def _points(model: LensModel, reader: Reader, points: str | Sequence[str]) -> list[Point]:
    chosen = lens_points(model, points)
    reader.require(chosen)
    return chosen


def _declare(
    job: Job,
    points: Sequence[Point],
    blocks: dict[str, tuple[int, ...]],
    *,
    input_lens: bool,
    rotation: bool,
) -> None:
    labels = {
        "context": CONTEXTS,
        "model": CURVES,
        "against": AGAINST,
        "token": TOKENS,
        "top": KS,
        "turn": ("state", "shuffled"),
        "point": [point.label for point in points],
        "kept": list(blocks),
    }
    asked = {"input_recall": input_lens, "rotation": rotation, "alone": bool(blocks)}
    unasked = tuple(name for name, wanted in asked.items() if not wanted)
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        axis: ((axis,), np.array(values)) for axis, values in labels.items()
    }
    coords["layer"] = (("point",), np.array([point.layer for point in points], dtype=np.int32))
    sizes = {axis: len(values) for axis, values in labels.items()}
    job.declare(sizes, coords, only=[n for n in VARIABLES if not n.startswith(unasked)])
