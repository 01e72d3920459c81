"""Sentences joined to texts with a beat a word, their controls, and what units do at each word."""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.neurons.periodic import levelling
from layerlens.analyses.probing.word_attention import words_of
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Word = str | int
"""Letters, or a token's id, which is then a word."""
Sentence = Sequence[Word]

WAYS = {
    "": "",
    "_swapped": ", words swapped between sentences",
    "_shuffled": ", words shuffled inside sentences",
}
"""The sentences and two controls: how names of their numbers end, and their words."""


FEWEST = 12
"""Sentences; of fewer, half of them have too few beats to tell a rhythm from chance."""


class Read(NamedTuple):
    """Sums over texts of what was read at their words, and of how many.

    Attributes
    ----------
    sums
        Site to ``[half, word, unit]`` float32 on the CPU.
    """

    sums: dict[Site, Tensor]
    runs: int


def sentences_of(tokens: Tokens, words: int, special: Collection[int]) -> list[Sentence]:
    """The words of each sentence: without punctuation around them, ids without special ones.

    Raises
    ------
    InputError
        A sentence has another number of words, or there are too few.
    """
    found: list[Sentence] = []
    for row, text in enumerate(tokens.texts):
        kept = tokens.ids[row][tokens.mask[row]].tolist()
        ids = [index for index in kept if index not in special]
        bare = [] if text is None else [word.strip(string.punctuation) for word in text.split()]
        one: Sentence = ids if text is None else [word for word in bare if word]
        if len(one) != words:
            raise InputError(
                f"Sentence {row} has {len(one)} words and words is {words}: all sentences need the "
                "same number, for each word is a beat."
            )
        found.append(one)
    if len(found) < FEWEST:
        raise InputError(
            f"Sentences given: {len(found)}; expected {FEWEST} or more, such as those of "
            "layerlens.corpus.rhythm.four_word_sentences(model)."
        )
    return found


def halves(sentences: Sequence[Sentence], seed: int) -> list[list[Sentence]]:
    """Two sets of sentences of one size, drawn at random; of an odd number one is left out."""
    order = np.random.default_rng(seed).permutation(len(sentences)).tolist()
    half = len(order) // 2
    return [[sentences[i] for i in part] for part in (order[:half], order[half : 2 * half])]


def varied(sentences: Sequence[Sentence], way: str, seed: int) -> list[Sentence]:
    """The sentences, or a control made of their words."""
    generator = np.random.default_rng([seed, *map(ord, way)])
    if way == "_swapped":
        slots = [generator.permutation(slot).tolist() for slot in zip(*sentences, strict=True)]
        return [list(row) for row in zip(*slots, strict=True)]
    if way == "_shuffled":
        return [[row[i] for i in scrambled(len(row), generator)] for row in sentences]
    return list(sentences)


def joined(sentences: Sequence[Sentence]) -> str | list[Word]:
    """One text of all the words, or their ids."""
    words = [word for sentence in sentences for word in sentence]
    return words if isinstance(words[0], int) else " ".join(map(str, words))


def scrambled(words: int, generator: np.random.Generator) -> list[int]:
    """An order in which no word is followed by its old neighbour, nor the last by the first's.

    So are its turns, so that each word is as likely at each place, and what tells words by their
    kind alone has no rhythm.

    Examples
    --------
    >>> scrambled(4, np.random.default_rng(0))
    [3, 2, 1, 0]
    """
    while True:
        order: list[int] = generator.permutation(words).tolist()
        after = zip(order, [*order[1:], order[0]], strict=True)
        if all(other != one + 1 for one, other in after):
            return order


def read_words(
    job: Job,
    model: LensModel,
    parts: Sequence[Sequence[Sentence]],
    sites: Sequence[Site],
    way: str,
    runs: int,
    seed: int,
    *,
    on_run: Callable[[Read], None] = lambda read: None,
) -> Read:
    """Feed the sentences of each half ``runs`` times in new orders; sum what is read, by word.

    Every word keeps its place in the sums whatever the order, so that a word counts once however
    often it is read: were words averaged by when they are read, any few words would seem to have a
    rhythm, as all of them meet at each beat. A word's value is the mean over its tokens, less the
    text's drift. A text begins with its last sentence, which is left out there, for what stands at
    the beginning is read unlike all that follows.
    """
    sets = [varied(sentences, way, seed) for sentences in parts]
    generator = np.random.default_rng(seed)
    sums: dict[Site, Tensor] = {}
    for done in range(1, runs + 1):
        for half, sentences in enumerate(sets):
            order = generator.permutation(len(sentences)).tolist()
            words = [word for i in (order[-1], *order) for word in sentences[i]]
            tokens = _read(job, words)
            means = _means(model, tokens, words)[len(sentences[0]) :]
            means = levelling(len(means)).float() @ means
            see = partial(_add, job, sums, (half, len(sets)), order, means)
            forward(model, tokens, sites, see, logits=None)
        on_run(Read(sums, done))
    return Read(sums, runs)


def _read(job: Job, words: Sentence) -> Tokens:
    """The tokens of one text."""
    try:
        return job.tokens(joined([words]))
    except InputError as error:
        raise InputError(
            f"Half of the sentences are one text, which cannot be read: {error} Give fewer "
            "sentences."
        ) from error


def _add(
    job: Job,
    sums: dict[Site, Tensor],
    half: tuple[int, int],
    order: Sequence[int],
    means: Tensor,
    site: Site,
    value: Tensor,
) -> None:
    """Add one text's words to the sums of its half, one of so many, in which they have an order."""
    job.tick()
    words = means @ value[0].float().cpu()
    if site not in sums:
        sums[site] = torch.zeros(half[1], *words.shape)
    sentences = (len(order), -1)
    sums[site][half[0]].unflatten(0, sentences)[order] += words.unflatten(0, sentences)


def _means(model: LensModel, tokens: Tokens, words: Sequence[Word]) -> Tensor:
    """``[word, token]`` float32: what takes the mean over the tokens of each word."""
    ids = tokens.ids[0].tolist()
    if isinstance(words[0], int):
        return torch.eye(len(ids))[-len(words) :]
    found, word = words_of(model, ids)
    if len(found) != len(words):
        raise InputError(
            f"The model's tokenizer makes {len(found)} words of {len(words)}, so that they are no "
            "beats: give sentences of plain words."
        )
    pieces = torch.from_numpy(word[None, :] == np.arange(len(words))[:, None]).float()
    return pieces / pieces.sum(1, keepdim=True)
