"""Kinds of tokens: the first, separators, punctuation, the rest."""

from __future__ import annotations

import layerlens as ll
from layerlens.model.token_kinds import token_kinds


def test_each_kind() -> None:
    strings = ["The", " cat", ",", " ...", "\n", " \n\n", "</s>", " ", "$", "", "«"]
    kinds = token_kinds(range(11), strings, {6})
    assert kinds == [
        *("first", "other", "punctuation", "punctuation", "separator", "separator"),
        *("separator", "other", "other", "other", "punctuation"),
    ]


def test_the_first_token_is_first_even_where_it_is_special() -> None:
    assert token_kinds([1, 1], ["<s>", "<s>"], {1}) == ["first", "separator"]


def test_special_tokens_are_those_of_the_tokenizer() -> None:
    model = ll.load("toy:induction")
    assert model.tokenizer.bos_token_id in model.vocabulary.special
    assert model.vocabulary.special == set(model.tokenizer.all_special_ids)
