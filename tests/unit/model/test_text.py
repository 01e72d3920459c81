"""Texts, tokens and positions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import layerlens as ll
from layerlens.model.text import Tokens, encode, find_positions
from layerlens.model.vocabulary import Vocabulary


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
