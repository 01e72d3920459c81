"""Texts, tokens and positions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import layerlens as ll
from layerlens.model.text import Tokens, encode, find_positions
from layerlens.model.vocabulary import Vocabulary

from . import tokenizers_by_hand as by_hand


def byte_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte: every character beyond ASCII is split."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: index for index, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>" if bos else None, pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def tools() -> SimpleNamespace:
    tokenizer = byte_tokenizer(bos=True)
    return SimpleNamespace(tokenizer=tokenizer, vocabulary=Vocabulary(tokenizer, len(tokenizer)))


def tokens(tools: SimpleNamespace, text: object, **options: object) -> Tokens:
    return encode(tools.tokenizer, tools.vocabulary, text, max_positions=40, **options)


def test_split_characters_stand_at_their_first_token(tools: SimpleNamespace) -> None:
    fed = tokens(tools, "a é🚀b")
    assert [s for s in fed.strings[0] if s] == ["a", " ", "é", "🚀", "b"]
    assert fed.continues[0] == (False,) * 3 + (True, False, True, True, True, False)
    assert "".join(fed.strings[0]) == "a é🚀b"


def test_joined_emoji_and_combining_marks_stay_together(tools: SimpleNamespace) -> None:
    assert [s for s in tokens(tools, "x👩‍🚀e\u0301").strings[0] if s] == ["x", "👩‍🚀", "e\u0301"]


def test_bytes_that_are_no_character_are_written_out(tools: SimpleNamespace) -> None:
    index = tools.tokenizer.encode("é")[1]
    assert tools.vocabulary.string(index) == "\\xa9"


def test_rtl_cjk_newline_and_markup_come_back_as_they_are(tools: SimpleNamespace) -> None:
    for text in ("שלום", "日本", "a\nb", "<b>&amp;"):
        assert "".join(tokens(tools, text).strings[0]) == text


def test_left_and_right_padding(tools: SimpleNamespace) -> None:
    right = tokens(tools, ["abc", "a"])
    left = tokens(tools, ["abc", "a"], padding_side="left")
    assert right.mask.tolist() == [[True] * 3, [True, False, False]]
    assert left.mask.tolist() == [[True] * 3, [False, False, True]]
    assert left.position_ids[1].tolist() == [0, 0, 0]
    assert left.lengths == [3, 1] and not left.single
    assert left.strings[1] == ("", "", "a")


def test_bos_is_added_once_and_said(tools: SimpleNamespace) -> None:
    fed = tokens(tools, "ab", add_bos=True)
    assert fed.strings[0] == ("<s>", "a", "b")
    assert "BOS <s> was added" in fed.notes[0]
    assert tokens(tools, "<s>ab", add_bos=True).strings[0] == ("<s>", "a", "b")


def test_trailing_space_is_pointed_out(tools: SimpleNamespace) -> None:
    assert "ends in a space" in tokens(tools, "ab ").notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ([], "empty"),
        ([[]], "empty|list of token ids"),
        ("a" * 41, "41 tokens, but the model takes at most 40"),
        ([999999], "does not exist"),
        (3.5, "not float"),
        ([{"role": "user", "content": "hi"}], "no chat template"),
    ],
)
def test_bad_texts_are_refused_in_a_sentence(
    tools: SimpleNamespace, text: object, message: str
) -> None:
    with pytest.raises(ll.InputError, match=message):
        tokens(tools, text)


def test_ids_and_tensors_are_taken(tools: SimpleNamespace) -> None:
    assert tokens(tools, [1, 2]).single
    assert tokens(tools, torch.tensor([[1, 2], [3, 4]])).ids.tolist() == [[1, 2], [3, 4]]
    assert not tokens(tools, [[1, 2], [3, 4]]).single


def test_without_a_tokenizer_ids_still_work() -> None:
    vocabulary = Vocabulary(None, 10)
    fed = encode(None, vocabulary, [1, 2], max_positions=None)
    assert fed.strings == (("[1]", "[2]"),)
    with pytest.raises(ll.InputError, match="token ids"):
        encode(None, vocabulary, "a", max_positions=None)


def test_targets(tools: SimpleNamespace) -> None:
    assert tools.vocabulary.find("a") == tools.tokenizer.encode("a")[0]
    assert tools.vocabulary.find(7) == 7
    with pytest.raises(ll.InputError, match="not one token but 2 \\('a', 'b'\\)"):
        tools.vocabulary.find("ab")
    with pytest.raises(ll.InputError, match="does not exist"):
        tools.vocabulary.find(-1)


def test_search_puts_the_exact_entry_first(tools: SimpleNamespace) -> None:
    assert tools.vocabulary.search("A", 2)[0][1] == "A"
    assert tools.vocabulary.search("a", 2)[0][1] == "a"
    assert tools.vocabulary.search("", 2) == []


def test_positions(tools: SimpleNamespace) -> None:
    fed = tokens(tools, "one two é", padding_side="left")
    assert find_positions(fed, -1) == [9]
    assert find_positions(fed, "two") == [4, 5, 6]
    assert find_positions(fed, "é") == [8, 9]
    assert find_positions(fed, slice(0, 2)) == [0, 1]
    assert find_positions(fed, [0, "two"]) == [0, 4, 5, 6]
    for where, message in ((50, "10 tokens"), ("o", "2 times"), ("x", "does not occur")):
        with pytest.raises(ll.InputError, match=message):
            find_positions(fed, where)


def test_spans_that_overlap_are_not_unique(tools: SimpleNamespace) -> None:
    fed = tokens(tools, "nanana")
    with pytest.raises(ll.InputError, match="occurs 2 times"):
        find_positions(fed, "nana")
    assert find_positions(fed, "nanana") == list(range(6))


def test_positions_are_whole_numbers_of_any_kind(tools: SimpleNamespace) -> None:
    fed = tokens(tools, "abcd")
    assert find_positions(fed, np.int64(2)) == [2]
    assert find_positions(fed, np.array([0, -1])) == [0, 3]
    assert find_positions(fed, torch.tensor([1, 1])) == [1]
    for where in (0.9, True, np.array([True, False]), {"a": 1}):
        with pytest.raises(ll.InputError, match="A position is named by"):
            find_positions(fed, where)


def test_tokens_are_equal_when_the_same_is_fed(tools: SimpleNamespace) -> None:
    one, two = tokens(tools, ["ab", "c"]), tokens(tools, ["ab", "c"])
    assert one == two and hash(one) == hash(two) and one is not two
    assert one != tokens(tools, ["ab", "d"]) and one != "ab"
    assert one != tokens(tools, ["ab", "c"], padding_side="left")
    assert len({one, two}) == 1


def test_tokens_of_another_tokenizer_are_refused(tools: SimpleNamespace) -> None:
    fed = tokens(tools, "ab")
    words = Vocabulary(by_hand.byte_level(), 300)
    with pytest.raises(ll.InputError, match=r"another tokenizer: \d+ is"):
        encode(by_hand.byte_level(), words, encode_with(by_hand.llama2()), max_positions=None)
    # A larger vocabulary in which these tokens read the same is no other one.
    more = byte_tokenizer(bos=True)
    more.add_tokens(["<more>"])
    assert encode(more, Vocabulary(more, len(more)), fed, max_positions=None) is fed
    with pytest.raises(ll.InputError, match="at most 1"):
        encode(tools.tokenizer, tools.vocabulary, fed, max_positions=1)


def encode_with(tokenizer: PreTrainedTokenizerFast) -> Tokens:
    return encode(tokenizer, Vocabulary(tokenizer, len(tokenizer)), "A is", max_positions=None)


def test_words_that_are_not_in_the_vocabulary_are_said() -> None:
    tokenizer = by_hand.word_level()
    words = Vocabulary(tokenizer, len(tokenizer), form="texts like 'the capital is'")
    fed = encode(tokenizer, words, "the capital is Paris", max_positions=None)
    assert fed.notes == (
        "1 of 4 tokens are <unk>: 'Paris' is not in the vocabulary; the model knows texts like "
        "'the capital is'",
    )
    assert encode(tokenizer, words, "the <unk> is", max_positions=None).notes == ()
    with pytest.raises(ll.InputError, match="Nothing of 'Bonjour Paris' is in the vocabulary"):
        encode(tokenizer, words, "Bonjour Paris", max_positions=None)


def test_ids_are_those_of_the_embedding_and_padding_too() -> None:
    tokenizer = by_hand.word_level()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})  # 5, of an embedding with 5 rows
    words = Vocabulary(tokenizer, 3, fed=5)
    fed = encode(tokenizer, words, [[4, 4], [3]], max_positions=None)
    assert fed.ids.tolist() == [[4, 4], [3, 0]]
    with pytest.raises(ll.InputError, match="Token id 5 does not exist: expected 0 to 4"):
        encode(tokenizer, words, [5], max_positions=None)


@pytest.mark.parametrize("text", [np.array([1, 2]), (np.int64(1), 2), torch.tensor([1, 2])])
def test_ids_of_any_kind_are_whole_numbers(tools: SimpleNamespace, text: object) -> None:
    assert tokens(tools, text).ids.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"input_ids": [[1]]}, r"give its \['input_ids'\]"),
        (3, r"write \[3\]"),
        ([True, False], "list of token ids"),
        ([0.5, 1.5], "list of token ids"),
        (np.array([0.5]), "list of token ids"),
    ],
)
def test_what_is_no_text_is_refused(tools: SimpleNamespace, text: object, message: str) -> None:
    with pytest.raises(ll.InputError, match=message):
        tokens(tools, text)
