"""Which one of two texts that hardly differ each layer finds less surprising."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses.early_exit import exits_of
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS, rows_of
from layerlens.analyses.lenses.readers import LOGIT, Lens, reader_of
from layerlens.analyses.probing.matched import Ids, matched, units_of
from layerlens.analyses.probing.numbers import share_between
from layerlens.analyses.probing.surprisals import Surprisals, reordered, shared_start
from layerlens.errors import InputError
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 1_000_000_000
OF = "of"
PAIRS, REORDERED, SWAPPED = "pairs", "random order", "swapped at random"
VARIABLES = {
    **with_interval(
        "share",
        Variable((OF, "point"), "float64", "1", "share of pairs whose good text surprises less"),
        "pairs or groups",
    ),
    **with_interval(
        "margin",
        Variable(
            (OF, "point"), "float64", "nats", "surprisal of the bad text above the good one's",
            signed=True,
        ),
        "pairs or groups",
    ),
    "difference": Variable(
        ("pair", "point"), "float64", "nats", "surprisal of the bad text above the good one's",
        signed=True,
    ),
}  # fmt: skip


def count_work(
    model: LensModel,
    good: Tokens | Texts,
    bad: Tokens | Texts,
    *,
    lens: Lens,
    reorder: bool,
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes, rows through the head and bytes of one call; reads the texts, runs nothing."""
    points = len(exits_of(model, reader_of(model, lens))) + 1
    one, other = ([row.ids for row in rows_of(model, side)] for side in (good, bad))
    fed = sum(map(len, [*one, *other]))
    shared = sum(2 * max(0, shared_start(*pair) - 1) for pair in zip(one, other, strict=False))
    head_rows = points * (fed - shared + (fed if reorder else 0))
    return Work(2 if reorder else 1, head_rows, memory_limit // 2, tokens=fed)


@analysis(
    name="minimal_pairs",
    question="At which layer does the model prefer the grammatical one of two sentences?",
    source="Warstadt et al. (2020), BLiMP: The Benchmark of Linguistic Minimal Pairs for English, "
    "arXiv 1912.00582; Marvin and Linzen (2018), Targeted Syntactic Evaluation of Language "
    "Models, arXiv 1808.09031; read at each layer through a lens: nostalgebraist (2020), "
    "interpreting GPT: the logit lens",
    cost="1 pass over both texts of every pair, and 1 over them in a random order, with the head "
    "on what differs at each layer",
    view="curves",
    lead="The higher above one half, the more often the good text is preferred from that depth. "
    "What the same words in a random order reach is no matter of order; swapped pairs show how far "
    "from one half chance alone leads.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    inputs=("good", "bad"),
    needs=("head", "causal"),
)
def minimal_pairs(
    job: Job,
    model: LensModel,
    good: Tokens | Texts,
    bad: Tokens | Texts,
    *,
    groups: Sequence[Any] | None = None,
    lens: Lens = LOGIT,
    reorder: bool = True,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Compare the surprisal of two texts, pair by pair, as each layer would predict them.

    Parameters
    ----------
    good, bad
        Two lists, or ``ll.texts``: the first belongs to the first, and so on.
    groups
        Of each pair: what is drawn together for the intervals. None: those of the good
        ``ll.texts(..., group=)``, and where there are none every pair is one.
    lens
        How a state is read: ``"logit"``, what ``ll.fit_lens`` returns, or the path of its file.
    reorder
        Whether the same is asked of both texts with their tokens in a random order.
    seed
        Of that order, and of the pairs that are swapped.
    memory_limit

    Notes
    -----
    The surprisal of a text is the sum of ``-ln p`` of its tokens behind the first, so a longer one
    has more of it: pairs should be of about one length, or each length as often good as bad. A tie
    counts half. The last point, ``final``, is the model's own answer.

    ``random order`` moves the tokens of both texts alike: a layer that prefers the good one even
    so goes by the tokens, not by their order. Make pairs in which each word is as often good as
    bad (as `layerlens.corpus.labelled.agreement_pairs` does), and it stays at one half.

    Whether good and bad can be *told apart* from a state is another question: ``ll.probe`` asks it,
    with ``ll.texts([*good, *bad], label=..., group=...)`` and one group for each pair.

    Raises
    ------
    InputError
        The lists do not pair up, a pair holds one text twice, or groups do not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> good = ["cat dog owl cat dog", "bee ant fox bee ant"]
    >>> bad = ["cat dog owl cat owl", "bee ant fox bee fox"]
    >>> found = ll.minimal_pairs(model, good, bad)
    >>> float(found.data.share.sel(of="pairs", point="final"))
    1.0
    """
    pairs = paired(rows_of(model, good), rows_of(model, bad))
    unit = units_of(job, groups, len(pairs))
    reader = reader_of(model, lens)
    points = exits_of(model, reader)
    work = Surprisals(job, model, points, reader, Head.of(model, memory_limit // 2))
    names = [PAIRS, *([REORDERED] if reorder else []), SWAPPED]
    _declare(job, model, [*points], pairs, names)
    swapped = np.random.default_rng((seed, 1)).choice([-1.0, 1.0], len(pairs))
    found = {name: np.zeros((len(points) + 1, 0)) for name in names}
    done = 0
    for chunk in _chunks(pairs):
        own = work.differences(chunk)
        new = {PAIRS: own, SWAPPED: own * swapped[done : done + len(chunk)]}
        if reorder:
            special = model.vocabulary.special
            moved = [reordered(*pair, special, (seed, done + i))
                     for i, pair in enumerate(chunk)]  # fmt: skip
            new[REORDERED] = work.differences(moved)
        job.emit({"pair": slice(done, done + len(chunk))}, {"difference": own.T})
        done += len(chunk)
        for place, name in enumerate(names):
            found[name] = np.concatenate([found[name], new[name]], 1)
            means = {"share": _right(found[name]).mean(1), "margin": found[name].mean(1)}
            job.emit({OF: place}, means)
        job.progress(done, len(pairs), "pairs")
    for place, name in enumerate(names):
        _intervals(job, place, found[name], unit)
    _check(job, work, pairs[0], float(found[PAIRS][-1, 0]))
    job.note(passes=2 if reorder else 1, lens=reader.name)


def paired(good: Sequence[Row], bad: Sequence[Row]) -> list[tuple[Ids, Ids]]:
    """The token ids of two lists, pair by pair.

    Raises
    ------
    InputError
        The lists do not pair up, a pair holds one text twice, or a text one token.
    """
    pairs = matched(good, bad, "good texts", "bad ones")
    if same := [number for number, (one, other) in enumerate(pairs) if one == other]:
        raise InputError(f"Pair {same[0]} holds the same tokens twice: give two texts that differ.")
    if short := [number for number, pair in enumerate(pairs) if min(map(len, pair)) < 2]:
        raise InputError(
            f"Pair {short[0]} has a text of one token, about which nothing is predicted: give two."
        )
    return pairs


def _declare(
    job: Job,
    model: LensModel,
    points: Sequence[Any],
    pairs: Sequence[tuple[Ids, Ids]],
    names: Sequence[str],
) -> None:
    labels = [*(point.label for point in points), "final"]
    layers = [*(point.layer for point in points), model.n_layers]
    special = model.vocabulary.special
    texts = [
        "".join(model.token_string(index) for index in one if index not in special)
        for one, _ in pairs
    ]
    job.declare(
        {OF: len(names), "point": len(labels), "pair": len(pairs)},
        {
            OF: ((OF,), np.array(names)),
            "point": (("point",), np.array(labels)),
            "layer": (("point",), np.array(layers, dtype=np.int32)),
            "pair": (("pair",), np.array(texts)),
        },
    )
    first = sum(one[0] != other[0] for one, other in pairs)
    if first:
        job.remark(
            f"{first} pairs differ in their first token, which nothing predicts; what follows it "
            "alone counts there (add_bos=True puts a token in front)"
        )


def _chunks(pairs: Sequence[tuple[Ids, Ids]]) -> Iterator[list[tuple[Ids, Ids]]]:
    """Pairs in their order, so many that they fill about two passes."""
    chunk: list[tuple[Ids, Ids]] = []
    held = 0
    for pair in pairs:
        size = len(pair[0]) + len(pair[1])
        if chunk and held + size > 2 * BATCH_TOKENS:
            yield chunk
            chunk, held = [], 0
        chunk.append(pair)
        held += size
    yield chunk


def _right(difference: np.ndarray) -> np.ndarray:
    """1 where the bad text surprises more, 0 where it surprises less, 0.5 for a tie."""
    right: np.ndarray = (np.sign(difference) + 1) / 2
    return right


def _intervals(job: Job, place: int, difference: np.ndarray, unit: np.ndarray) -> None:
    for point, own in enumerate(difference):
        job.tick()
        arrays: dict[str, np.ndarray] = {}
        for name, values in (("share", _right(own)), ("margin", own)):
            mean, low, high = map(np.array, share_between(values, unit))
            arrays |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        job.emit({OF: place, "point": point}, arrays)


def _check(job: Job, work: Surprisals, pair: tuple[Ids, Ids], found: float) -> None:
    """Hold the last row of the first pair against plain passes of the whole texts."""
    own, largest = work.own_difference(pair)
    count = max(map(len, pair))
    job.check(
        "first pair by whole passes", abs(found - own) / count,
        logit_tolerance(work.model.dtype) * largest,
        "difference of the two surprisals, from what differs in a batch against all tokens of each "
        "text alone (nats a token)",
    )  # fmt: skip
    if work.unsayable:
        job.remark(
            f"{work.unsayable} tokens have no row in the head, so this model cannot predict them: "
            "they do not count"
        )
