"""Attention between the words of a text, from that between its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS
from layerlens.corpus.shard import batches
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def words_of(model: LensModel, ids: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """The words of a text, and the number of the word that each token is a piece of.

    A word is what stands between white space. A token belongs to the word that its first character
    belongs to; special tokens, and white space alone, to none (-1).

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> words_of(model, model.tokens("cat dog cat").ids[0].tolist())[0]
    ['cat', 'dog', 'cat']
    """
    special = model.vocabulary.special
    word = np.full(len(ids), -1)
    words: list[str] = []
    before: int | None = None
    for place, index in enumerate(ids):
        if index in special:
            before = None
            continue
        if bare := model.token_string(index).strip():
            if before is None or _apart(model, before, index):
                words.append("")
            word[place] = len(words) - 1
            words[-1] += bare
        before = index
    return words, word


def _apart(model: LensModel, before: int, index: int) -> bool:
    """Whether white space stands between two tokens, in one of them or where they are joined."""
    one, other = model.token_string(before), model.token_string(index)
    if one[-1:].isspace() or other[:1].isspace():
        return True
    if model.tokenizer is None:  # there is no text: each token is a word
        return True
    both = model.tokenizer.decode([before, index])
    return f"{one} {other}" in both


def between_words(patterns: Tensor, word: np.ndarray) -> np.ndarray:
    """Attention ``[head, word, word]`` float32 of patterns ``[head, query, key]``.

    Summed over the pieces that are looked at, and averaged over those that look (Clark et al.,
    2019): where every token is a piece of a word, rows sum to 1 as before.
    """
    pieces = torch.from_numpy(word[:, None] == np.arange(word.max() + 1)).float()
    looked_at = patterns.float().cpu() @ pieces
    found: np.ndarray = ((pieces / pieces.sum(0)).T @ looked_at).numpy()
    return found


def recorded_words(
    model: LensModel, rows: Sequence[Row], tick: Callable[[], None] = lambda: None
) -> list[np.ndarray]:
    """Of each text, the attention of all heads between its words: ``[layer, head, word, word]``.

    Raises
    ------
    InputError
        A text has no word.
    """
    kept: dict[int, list[np.ndarray]] = {row.number: [] for row in rows}
    word = {row.number: words_of(model, row.ids)[1] for row in rows}
    if empty := [number for number, own in word.items() if own.max() < 0]:
        raise InputError(f"Text {empty[0]} has no words: give texts with words.")
    sites = [Site("pattern", layer) for layer in range(model.n_layers)]
    for tokens, numbers in batches(model, rows, BATCH_TOKENS):

        def see(
            site: Site, value: Tensor, tokens: Tokens = tokens, numbers: Sequence[int] = numbers
        ) -> None:
            tick()
            for place, number in enumerate(numbers):
                real = tokens.mask[place].to(value.device)
                own = value[place][:, real][:, :, real]
                kept[number].append(between_words(own, word[number]))

        forward(model, tokens, sites, see, logits=None)
    return [np.stack(kept[row.number]) for row in rows]
