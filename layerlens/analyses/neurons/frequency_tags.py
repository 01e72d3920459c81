"""Neurons that keep time with sentences: frequency tagging with words as beats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.neurons.frequency_cell import open_rhythm
from layerlens.analyses.neurons.frequency_run import KINDS, MEANS, RATES, TEXTS, FrequencyRun
from layerlens.analyses.neurons.periodic import periods
from layerlens.analyses.neurons.rhythm_texts import WAYS, halves, sentences_of
from layerlens.errors import InputError
from layerlens.metrics.layer import neuron_sites
from layerlens.model.integers import whole
from layerlens.run.where import neurons_of

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_TEXTS = ("layer", "words")
_RANK = ("rate", "rank")
RANKS = 5
"""Neurons that are named for each rate."""
_TAGGED = (
    "more power at the rate than shuffled words leave, Benjamini-Hochberg over the layer's neurons "
    "and rates"
)
VARIABLES = {
    **{
        name: Variable(
            ("frequency",),
            "float64",
            "1",
            f"neurons' variance by cycles a word ({words})",
            unclipped=True,
        )
        for name, words in zip(MEANS.values(), TEXTS, strict=True)
    },
    **{
        f"tagged_{rate}": Variable(
            _TEXTS, "float64", "1", f"share of neurons that keep time, {words}", formula=_TAGGED
        )
        for rate, words in RATES.items()
    },
    **{
        f"state_power_{rate}": Variable(
            _TEXTS, "float64", "1", f"share of the states' variance, {words}"
        )
        for rate, words in RATES.items()
    },
    "survive": Variable(
        ("layer",),
        "float64",
        "1",
        "share of neurons: tagged, and more so than with words swapped",
        formula="share in order - share swapped, beyond exchanges of sentences between the two, "
        "Benjamini-Hochberg over the layer's neurons",
    ),
    "survive_chance": Variable(
        ("layer",), "float64", "1", "the same of sentences exchanged with swapped ones"
    ),
    **with_interval(
        "beyond_kinds",
        Variable(
            ("layer",),
            "float64",
            "1",
            "power at the rate of sentences less that with words swapped, mean over neurons",
            signed=True,
        ),
        "sentences",
    ),
    "beyond_kinds_chance": Variable(
        ("layer",), "float64", "1", "its upper end (95 %) with sentences exchanged at random"
    ),
    "kind": Variable(("layer", "tagged_at"), "float64", "1", "share of neurons, by what they keep"),
    "again": Variable(
        ("layer",), "float64", "1", "tagged in half of the sentences: in the other too"
    ),
    "again_chance": Variable(("layer",), "float64", "1", "any neuron: tagged in that other half"),
    "overlap": Variable(("layer",), "float64", "1", "overlap (Dice): sentences, faster rates"),
    "overlap_chance": Variable(("layer",), "float64", "1", "overlap (Dice) of independent sets"),
    **{
        f"spectrum{way}": Variable(
            ("layer", "frequency"), "float64", "1", f"share of the neurons' variance{words}"
        )
        for way, words in WAYS.items()
    },
    "neuron_layer": Variable(
        _RANK, "int32", "1", "layer of neurons with most power beyond swapped words"
    ),
    "neuron": Variable(_RANK, "int32", "1", "the neuron, chosen in half of the sentences"),
    **{
        f"neuron_power{way}": Variable(
            _RANK, "float64", "1", f"its power at the rate in the other half{words}"
        )
        for way, words in WAYS.items()
    },
}


def count_work(
    model: LensModel,
    sentences: Tokens,
    *,
    words: int,
    runs: int,
    draws: int,
    level: float,
    layers: Any,
    seed: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    half = len(sentences.ids) // 2
    beats = 2 * words * half
    sites = neuron_sites(model, layers)
    wide = max(neurons_of(model, site.block) for site in sites)
    # Of the sentences what each adds to the power stays, for the test against swapped words.
    kept = beats * (wide * (1 + 3 / words) + model.d_model) * len(sites) * 4
    one = (draws * 2 * len(periods(words)) + 4 * beats) * wide * 4
    tests = 2.0 * draws * 2 * beats * 2 * len(periods(words)) * wide * len(sites) * len(WAYS)
    tokens = (half + 1) * max(sentences.lengths) + 1
    return Work(len(WAYS) * runs * 2, 0, round(kept + one), tokens=tokens, operations=tests)


@analysis(
    name="frequency_tags",
    question="Which neurons keep time with sentences, and which with phrases?",
    source="Jin et al. (2025), Hierarchical Frequency Tagging Probe (HFTP), arXiv 2510.13255; Ding "
    "et al. (2016), Cortical Tracking of Hierarchical Linguistic Structures in Connected Speech",
    cost="2 passes for each run of the sentences, and as many for each of two controls",
    view="panels",
    lead="Every sentence has as many words as the others: a neuron that does the same in each has "
    "power at the rate of sentences. What it keeps with words swapped between sentences is that "
    "of kinds of words, not of sentences; what survives beside it is of sentences.",
    variables=VARIABLES,
    work=count_work,
    inputs=("sentences",),
    pooled=True,
    opens=open_rhythm,
)
def frequency_tags(
    job: Job,
    model: LensModel,
    sentences: Tokens,
    *,
    words: int = 4,
    runs: int = 10,
    draws: int = 100,
    level: float = 0.05,
    layers: Any = None,
    seed: int = 0,
) -> None:
    """Join sentences of equally many words, and find the neurons whose activation has their rhythm.

    The sentences, in a new order each time, follow each other without full stops, so that nothing
    but their words says where one ends. A neuron's signal is its activation at each word (the mean
    over the word's tokens), the mean over the ``runs``, less its mean and drift. Whatever does the
    same in each sentence has its power at periods of ``words``, ``words / 2``, ... words (rates).
    A neuron is tagged where that share of its variance is larger than words in any order leave,
    at most ``level`` of the tagged ones by chance. ``_sentence``: at the period of ``words``;
    ``_faster``: at any shorter one, which are phrases where sentences are made of equal ones.

    Parameters
    ----------
    words
        Of each sentence, 3 or more; 4 are two phrases of two.
    runs
        How often all sentences are fed, in new orders.
    draws
        How often the words of a signal are shuffled; each serves all neurons of a layer.
    level
        Expected share of wrong ones among the tagged (false discovery rate).
    layers
        Whose neurons; None for all layers that have some.
    seed
        Of orders and shuffles.

    Notes
    -----
    Two controls go the same way. ``swapped``: each place of a sentence gets its word from any
    sentence, so that kinds of words keep their order and sentences mean nothing. ``shuffled``: the
    words of each sentence are shuffled so that no two old neighbours stay. Both are drawn once, and
    then read like the sentences. A neuron that only marks
    nouns has the rhythm of sentences, too, and keeps it with words swapped: a tag says that a
    neuron is locked to sentences, not that it knows syntax.

    ``survive`` is what remains: neurons that are tagged and whose power at the rate of sentences
    is larger in order than swapped, by a test that exchanges sentences with swapped ones at random
    (were a sentence no more than the kinds of its words, that would change nothing), at most
    ``level`` of them by chance. ``beyond_kinds`` is the mean difference of the two powers, with an
    interval over sentences (delete-one jackknife).

    The sentences are two halves that are fed apart. ``again`` is the share of the neurons tagged in
    the one that the other tags as well. The neurons that are named have most power beyond that with
    words swapped in the first half, and are measured in the second.

    The mean over runs is one of sentences, whenever each was read, not of moments. At one moment of
    many runs all first words meet, and their mean differs from that of all second words merely
    because they are other words: averaged so, sentences of words drawn at random have a rhythm in
    half of the default model's neurons. Here a word counts once, and such sentences have none.

    Of the source: beats, averages over shuffled orders before the transform, the mean over a word's
    tokens, the scrambled control. It averages moments, takes every neuron's own 95th percentile of
    1,000 shuffles and then differences of more than 2 standard deviations; that words
    count once, that all neurons of a layer share one distribution (shares of variance have no
    scale), that errors are counted over neurons and rates, the swapped words, the test against them
    and the halves are ours. The fastest rate of an even number of words, every
    second one, has one wave and not two; shares of variance, not amplitudes, compare it fairly.

    Memory holds one text's activations of all layers asked for, for the mean over runs.

    Raises
    ------
    InputError
        There are fewer than 12 sentences, they do not have ``words`` words each, the tokenizer
        does not keep words apart, or an option does not fit.
    SiteError
        The model's MLPs have no neurons that could be watched.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.frequency_tags(model, [[5, 9, 4, 7], [3, 8, 6, 2]] * 6, runs=2)
    >>> found.data.tagged_sentence.dims, found.data.words.values.tolist()
    (('layer', 'words'), ['in order', 'swapped', 'shuffled'])
    """
    _require(words, runs, draws, level)
    sites = neuron_sites(model, layers)
    parts = halves(sentences_of(sentences, words, model.vocabulary.special), seed)
    beats = words * len(parts[0])
    frequencies = (np.arange(1, beats // 2 + 1) / beats).round(4)
    faster = len(periods(words)) > 1
    axes = {
        "layer": np.array([site.block for site in sites], np.int32),
        "words": np.array(TEXTS),
        "rate": np.array(list(RATES)[: 1 + faster]),
        "rank": np.arange(1, RANKS + 1, dtype=np.int32),
        "frequency": frequencies,
    } | ({"tagged_at": np.array(KINDS)} if faster else {})
    of_two = {
        name for name in VARIABLES if name.startswith(("kind", "overlap")) or "faster" in name
    }
    job.declare(
        {axis: len(labels) for axis, labels in axes.items()},
        {axis: ((axis,), labels) for axis, labels in axes.items()},
        only=[name for name in VARIABLES if faster or name not in of_two],
    )
    run = FrequencyRun(job, model, sites, parts, words, RANKS)
    run.measure(runs, draws, level, seed)
    job.note(passes=run.passes, sentences=sum(map(len, parts)), words_counted=2 * beats)


def _require(words: int, runs: int, draws: int, level: float) -> None:
    for name, value, least in (("words", words, 3), ("runs", runs, 1)):
        if whole(value, name) < least:
            raise InputError(f"{name} is {value}; expected {least} or more.")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a share between 0 and 1.")
    least = math.ceil(len(periods(words)) / level)
    if whole(draws, "draws") < least:
        raise InputError(
            f"draws is {draws}; expected {least} or more: with fewer shuffles a single neuron "
            f"cannot be told from chance at level={level:g}."
        )
