"""From texts to the tokens that a model is fed, and from tokens to words."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError
from layerlens.model.anatomy import Anatomy
from layerlens.model.feed import Feed, fed_rows, text_config
from layerlens.model.inputs import Given, Sides
from layerlens.model.labels import Labels, labels_of
from layerlens.model.targets import choose
from layerlens.model.text import Tokens, encode, find_positions
from layerlens.model.trained_range import TrainedRange
from layerlens.model.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class WithText:
    """What a model does with texts and tokens.

    Attributes
    ----------
    hf, tokenizer, anatomy
        As of a :class:`layerlens.model.lensmodel.LensModel`.
    """

    hf: PreTrainedModel
    tokenizer: Any
    processor: Any
    feed: Feed
    anatomy: Anatomy
    name: str

    @property
    def d_vocab(self) -> int:
        """Logits of a position, or entries of the embedding where there is no head.

        Answers are counted by them and texts by the embedding (:attr:`d_vocab_in`); in a few
        models they differ.
        """
        return self.anatomy.d_vocab

    @property
    def d_vocab_in(self) -> int:
        """Rows of the embedding: ids from here on cannot be fed."""
        return fed_rows(self.hf)

    @property
    def max_positions(self) -> int | None:
        """Longest text that the model takes, in tokens; None if it states no limit."""
        limit = getattr(text_config(self.hf), "max_position_embeddings", None)
        return int(limit) if isinstance(limit, int) and limit > 0 else None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Readable strings of the vocabulary."""
        form = "" if self.trained_range is None else str(self.trained_range)
        return Vocabulary(self.tokenizer, self.d_vocab, fed=self.d_vocab_in, form=form)

    @cached_property
    def trained_range(self) -> TrainedRange | None:
        """What a small model was trained on, where its configuration says so."""
        return TrainedRange.of(self.hf.config)

    def tokens(
        self, text: Any, *, add_bos: bool | None = None, padding_side: str = "right"
    ) -> Tokens:
        """The tokens that are fed for a text; see :func:`layerlens.model.text.encode`."""
        if isinstance(text, Given | Sides):
            raise InputError(f"{self.name} reads a text, not {type(text).__name__.lower()}.")
        found = encode(
            self.tokenizer,
            self.vocabulary,
            text,
            max_positions=self.max_positions,
            add_bos=add_bos,
            padding_side=padding_side,
        )
        trained = self.trained_range
        remark = None if trained is None else trained.remark(max(found.lengths))
        if remark is None or remark in found.notes:
            return found
        return replace(found, notes=(*found.notes, remark))

    def positions(self, tokens: Tokens, where: Any, row: int = 0) -> list[int]:
        """Positions that an index, slice, list or span of text names."""
        return find_positions(tokens, where, row)

    @cached_property
    def answers(self) -> Vocabulary:
        """Readable strings of what the head answers: classes by their labels, else tokens."""
        labels = labels_of(self.hf, self.d_vocab)
        return self.vocabulary if labels is None else Labels(labels)

    @property
    def answers_words(self) -> bool:
        """Whether what it answers and what it is fed are numbered alike."""
        return bool(self.feed.ids) and self.answers is self.vocabulary

    def token_id(self, target: str | int, after: Tokens | None = None, row: int = 0) -> int:
        """The one token that a string or id names, else an ``InputError`` with its pieces.

        Parameters
        ----------
        after
            What it answers: ``"A"`` may be another token behind a text than alone.
        row
            Which of its texts.
        """
        before = None if after is None else after.texts[row]
        return choose(self.answers, target, before).id

    def token_string(self, index: int) -> str:
        """Readable text of one vocabulary entry."""
        return self.answers.string(index)

    def token_named(self, index: int) -> str | int:
        """The string that `token_id` takes for this entry; its id where no string names it."""
        text = self.token_string(index)
        try:
            return text if self.token_id(text) == index else index
        except InputError:
            return index

    def search_tokens(self, query: str, limit: int = 50) -> list[tuple[int, str]]:
        """Vocabulary entries whose text holds the query: ``(id, text)``, best first."""
        return self.answers.search(query, limit)
