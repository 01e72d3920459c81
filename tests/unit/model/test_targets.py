"""Which token an answer names, in each kind of tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from layerlens.errors import InputError
from layerlens.model.targets import choose
from layerlens.model.vocabulary import Vocabulary

from . import tokenizers_by_hand as by_hand


def vocabulary(tokenizer: Any, size: int | None = None, form: str = "") -> Vocabulary:
    return Vocabulary(tokenizer, len(tokenizer) if size is None else size, form=form)


def entry(words: Vocabulary, token: str) -> int:
    return int(words.tokenizer.convert_tokens_to_ids(token))


def test_a_letter_is_the_piece_that_follows_the_text_and_never_its_byte() -> None:
    words = vocabulary(by_hand.llama2())
    assert words.encode("The answer is:A")[-1] == entry(words, "A")
    for before in (None, "answer is:", "answer: "):
        choice = choose(words, "A", before)
        assert choice.id == entry(words, "A")
        assert choice.note is not None and "without a space in front" in choice.note
        assert str(entry(words, "▁A")) in choice.note
    assert choose(words, " A", "answer is:") == (entry(words, "▁A"), None)


def test_a_byte_is_an_answer_where_nothing_else_spells_it() -> None:
    words = vocabulary(by_hand.llama2())
    assert choose(words, "\n").id == entry(words, "<0x0A>")
    produced = {index for text in map(chr, range(128)) for index in words.encode(f"A{text}")}
    for text in map(chr, range(33, 127)):
        assert choose(words, text).id in produced


def test_a_word_with_a_space_put_in_front_is_said() -> None:
    words = vocabulary(by_hand.metaspace())
    choice = choose(words, "Paris", "A is")
    assert choice.id == entry(words, "▁Paris")
    assert choice.note == f"'Paris' was read as the token ' Paris' (id {choice.id})"
    assert choose(words, " Paris", "A is") == (choice.id, None)
    assert choose(words, "is", "A").id == entry(words, "is")


def test_byte_level_reads_exactly_what_is_written() -> None:
    words = vocabulary(by_hand.byte_level())
    assert choose(words, "A", "x is") == (entry(words, "A"), None)
    assert choose(words, " A", "x is") == (entry(words, "ĠA"), None)
    with pytest.raises(InputError, match="not one token but 4"):
        choose(words, "\\xF0")  # the text of a lone byte as it is shown


def test_word_pieces_are_words_not_continuations() -> None:
    words = vocabulary(by_hand.word_piece())
    for target in ("paris", " paris", " Paris"):
        assert choose(words, target, "the capital is").id == entry(words, "paris")
    assert choose(words, "##is").id == entry(words, "##is")


def test_a_word_that_is_not_in_the_vocabulary_is_refused_with_the_form() -> None:
    words = vocabulary(by_hand.word_level(), form="texts like 'the capital is'")
    assert choose(words, "Rome").note == "'Rome' was read as the token 'rome' (id 4)"
    assert choose(words, "<unk>").id == 0
    with pytest.raises(InputError, match=r"'paris' is not in the vocabulary .*the capital is"):
        choose(words, "paris")


def test_what_the_head_has_no_row_for_is_no_answer() -> None:
    words = vocabulary(by_hand.word_level(), size=4)
    with pytest.raises(InputError, match="token 4, but the head has 4 rows"):
        choose(words, "rome")
    with pytest.raises(InputError, match="does not exist in the head: expected 0 to 3"):
        choose(words, 4)
    assert "rome" not in words.ids


def test_rows_of_the_head_that_the_tokenizer_lacks_are_named_by_id_only() -> None:
    words = vocabulary(by_hand.byte_level(), size=300)
    assert words.string(290) == "[290]"
    assert choose(words, 290).id == 290
    with pytest.raises(InputError, match="not one token"):
        choose(words, "[290]")


@pytest.mark.parametrize("target", [np.int64(3), torch.tensor(3), np.array(3)])
def test_whole_numbers_of_any_kind_are_ids(target: Any) -> None:
    assert choose(vocabulary(by_hand.word_level()), target).id == 3


@pytest.mark.parametrize("target", [True, 3.0, None, [3, 4], ""])
def test_anything_else_is_refused(target: Any) -> None:
    with pytest.raises(InputError, match=r"named by its text or its id|empty text"):
        choose(vocabulary(by_hand.word_level()), target)
