"""Whether attention alone tells which word another one belongs to, and which heads say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.arc_reader import Arcs, arcs_of, fitted, told
from layerlens.analyses.probing.asked import Task, require
from layerlens.analyses.probing.folds import Folds
from layerlens.analyses.probing.matched import units_of
from layerlens.analyses.probing.numbers import mean_between, share_between
from layerlens.analyses.probing.word_attention import between_words, recorded_words, words_of
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

OF, WAY = "reader", "way"
ALL, BEST, EVEN, OFFSET = "all heads", "best head", "even attention", "commonest offset"
SHUFFLED, CHANCE = "all heads, other words", "chance"
READERS = (ALL, BEST, EVEN, OFFSET, SHUFFLED, CHANCE)
WAYS = ("word to head word", "head word to word")
_HEADS = (WAY, "layer", "head")
VARIABLES = {
    **with_interval(
        "accuracy", Variable((OF,), "float64", "1", "share of words whose head word is found"),
        "texts or groups",
    ),
    "head_accuracy": Variable(
        _HEADS, "float64", "1", "share of words whose head word this head looks at most"
    ),
    "weight": Variable(
        _HEADS, "float64", "1", "weight of a head among all, mean over folds", signed=True
    ),
}  # fmt: skip


def count_work(model: LensModel, tokens: Tokens, *, arcs: Any, folds: int, **_: Any) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    words = max(tokens.lengths)
    asked = sum(len(own) for own in arcs or ())
    heads = model.n_layers * model.n_heads
    size = 4 * heads * (len(tokens.ids) * words**2 + 2 * 2 * asked * words)
    return Work(1, 0, size, operations=2.0 * folds * 60 * 4 * asked * words * 2 * heads)


@analysis(
    name="attention_probe",
    question="Which heads look from a word to the word that it belongs to?",
    source="Clark et al. (2019), What Does BERT Look At? An Analysis of BERT's Attention, arXiv "
    "1906.04341 (attention-only probe)",
    cost="1 pass over the texts, with all patterns",
    view="grid",
    lead="Each cell is a head: how often the word it looks at most is the right one, and what it "
    "weighs when all heads are read together. Beside them what even attention, the commonest "
    "offset and head words of other words reach.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("attention",),
)
def attention_probe(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    arcs: Sequence[Sequence[tuple[int, int]]] | None = None,
    groups: Sequence[Any] | None = None,
    folds: int = 5,
    strength: float = 100.0,
    seed: int = 0,
) -> None:
    """Find the head word of words by attention alone, with one weight for each head and way.

    Parameters
    ----------
    arcs
        For each text a list of pairs: the number of a word and that of its head word, counted from
        0 between white space. `layerlens.corpus.labelled.head_words` has some to begin with.
    groups
        Of each text: those of one group never stand on both sides of a fold. None: those of
        ``ll.texts(..., group=)``, and where there are none every text is one.
    folds
        Parts that are judged in turn by what was learned from the others.
    strength
        The larger, the less weights are held small.
    seed
        Of folds, and of the words that are taken for head words as a control.

    Notes
    -----
    ``p(i | j) ~ exp(sum_k w_k a_k(j, i) + u_k a_k(i, j))`` over all other words ``i`` of the text:
    attention is summed over the pieces of the word that is looked at and averaged over those of
    the one that looks; special tokens are no words. In a causal model one of both is always 0.

    ``best head`` is one head, one way, chosen on what its fold learns from. ``even attention`` is
    fitted like all heads on a pattern in which each token looks at all it can see alike: what it
    reaches comes from positions. ``commonest offset`` always takes the word that stands as far off
    as head words did most often. ``head_accuracy`` is of all texts and chooses nothing.

    Raises
    ------
    InputError
        There are no arcs, or they name words that are not there; there are too few texts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = ["cat dog owl", "bee ant fox", "owl cat dog", "fox bee ant"]
    >>> found = ll.attention_probe(model, texts, arcs=4 * [[(1, 0), (2, 1)]], folds=3)
    >>> float(found.data.accuracy.sel(reader="commonest offset"))
    1.0
    """
    require("linear", "shuffle", "accuracy", folds, strength)
    rows = rows_of(model, tokens)
    counts = [len(words_of(model, row.ids)[0]) for row in rows]
    pairs = _checked(arcs, counts)
    unit = units_of(job, groups, len(rows))
    heads = (model.n_layers, model.n_heads)
    job.declare(
        {OF: len(READERS), WAY: 2, "layer": heads[0], "head": heads[1]},
        {
            OF: ((OF,), np.array(READERS)), WAY: ((WAY,), np.array(WAYS)),
            "layer": (("layer",), np.arange(heads[0], dtype=np.int32)),
            "head": (("head",), np.arange(heads[1], dtype=np.int32)),
        },
    )  # fmt: skip
    maps = [own.reshape(-1, *own.shape[2:]) for own in recorded_words(model, rows, job.tick)]
    found, even = arcs_of(maps, pairs), arcs_of([_even(model, row.ids) for row in rows], pairs)
    scores = np.moveaxis(found.features, 2, 0)
    alone = np.stack([told(one, found.real, found.wanted) for one in scores])
    job.emit({}, {"head_accuracy": alone.mean(1).reshape(2, *heads)})
    _judge(job, found, even, alone, unit[found.text], folds, strength, seed, heads)
    sums = max(float(own.sum(-1).max()) for own in maps)
    job.check("no more than all", max(0.0, sums - 1), 1e-3 if model.dtype.itemsize > 2 else 2e-2,
              "largest sum of a word's attention to words, above 1")  # fmt: skip
    job.note(passes=1, arcs=len(found.wanted))


def _judge(
    job: Job, found: Arcs, even: Arcs, alone: np.ndarray, unit: np.ndarray, folds: int,
    strength: float, seed: int, heads: tuple[int, int],
) -> None:  # fmt: skip
    """Fit each reader on all folds but one, and judge it on that."""
    count = len(found.wanted)
    divided = Folds.of(Task(np.zeros(count), unit, True, ()), folds, seed)
    other = np.array([np.random.default_rng((seed, i)).choice(np.flatnonzero(real))
                      for i, real in enumerate(found.real)])  # fmt: skip
    right = {name: np.zeros(count) for name in READERS}
    right[CHANCE] = 1 / found.real.sum(1)
    weights, steepest = np.zeros((folds, found.features.shape[2])), 0.0
    for fold in range(folds):
        job.tick()
        here = divided.number == fold
        for name, arcs, wanted in ((ALL, found, found.wanted), (EVEN, even, even.wanted),
                                   (SHUFFLED, found, other)):  # fmt: skip
            weight, slope = fitted(arcs.features[~here], arcs.real[~here], wanted[~here], strength)
            steepest = max(steepest, slope)
            said = arcs.features[here] @ weight
            right[name][here] = told(said, arcs.real[here], wanted[here])
            if name == ALL:
                weights[fold] = weight
        right[BEST][here] = alone[alone[:, ~here].mean(1).argmax(), here]
        offset = found.offset[np.arange(count), found.wanted]
        common = Counter(offset[~here].tolist()).most_common(1)[0][0]
        right[OFFSET][here] = offset[here] == common
        job.emit({}, {"weight": weights[: fold + 1].mean(0).reshape(2, *heads)})
        job.progress(fold + 1, folds, "folds")
    for place, name in enumerate(READERS):
        between = mean_between if name == CHANCE else share_between
        mean, low, high = map(np.array, between(right[name], unit))
        job.emit({OF: place}, {"accuracy": mean, "accuracy_low": low, "accuracy_high": high})
    job.check("solved", steepest, 1e-3, "largest slope of a loss where its solver stopped")


def _even(model: LensModel, ids: Sequence[int]) -> np.ndarray:
    """``[1, word, word]``: the attention of a head that looks at all tokens it can see alike."""
    import torch

    pattern = torch.ones(len(ids), len(ids))
    if not model.bidirectional:
        pattern = pattern.tril()
    word = words_of(model, ids)[1]
    return between_words((pattern / pattern.sum(1, keepdim=True))[None], word)


def _checked(
    arcs: Sequence[Sequence[tuple[int, int]]] | None, words: Sequence[int]
) -> list[list[tuple[int, int]]]:
    """The arcs of each text.

    Raises
    ------
    InputError
        There are none, not as many lists as texts, or they name no words.
    """
    if arcs is None or len(arcs) != len(words) or not any(map(len, arcs)):
        raise InputError(
            f"attention_probe needs arcs= with a list for each of the {len(words)} texts: pairs of "
            "a word and its head word, [(2, 1), ...]."
        )
    for number, (own, count) in enumerate(zip(arcs, words, strict=True)):
        for word, head in own:
            if not (0 <= word < count and 0 <= head < count) or word == head:
                raise InputError(
                    f"Text {number} has {count} words, and an arc from {word} to {head}: count "
                    "words from 0 between white space, and leave out the root."
                )
    return [[(int(word), int(head)) for word, head in own] for own in arcs]
