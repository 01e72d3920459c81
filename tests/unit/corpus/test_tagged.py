"""Labels of words put to tokens: pieces, signs, special tokens; spaCy's own where it is there."""

from __future__ import annotations

import builtins
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import layerlens as ll
from layerlens.corpus.tagged import SpacyTagger, tagged_texts
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from tests.unit.model import tokenizers_by_hand as by_hand


def model_of(tokenizer: PreTrainedTokenizerFast) -> LensModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return ll.load(LlamaForCausalLM(config).eval(), tokenizer, name="tiny", prove=False)


@pytest.fixture(scope="module")
def model() -> LensModel:
    return model_of(by_hand.llama2())


def words(*tags: tuple[str, str]) -> Any:
    """A tagger that finds these words in the text one after the other."""

    def tag(text: str) -> list[tuple[int, int, str]]:
        found, at = [], 0
        for word, label in tags:
            at = text.index(word, at)
            found.append((at, at + len(word), label))
            at += len(word)
        return found

    return tag


def labelled(model: LensModel, text: str, *tags: tuple[str, str]) -> list[tuple[str, str | None]]:
    item = next(tagged_texts(model, [text], words(*tags)).items())
    pieces = [model.token_string(index).strip() for index in item.text]
    return list(zip(pieces, item.label, strict=True))


@pytest.mark.parametrize("make", [by_hand.llama2, by_hand.byte_level])
def test_a_word_is_labelled_at_its_last_piece(make: Any) -> None:
    tags = ("A", "x"), ("ans", "noun"), ("is", "verb"), (":", "sign")
    found = labelled(model_of(make()), "A ans is:", *tags)
    assert [label for _, label in found if label] == ["x", "noun", "verb", "sign"]
    assert {label: piece for piece, label in found if label} | {"noun": "", "x": ""} == {
        "x": "", "noun": "", "verb": "is", "sign": ":"
    }  # fmt: skip
    noun = [label for _, label in found].index("noun")
    before = [label for _, label in found[:noun]]
    assert before.count(None) == len(before) - 1  # pieces before the last, and the begin token


def test_a_token_of_two_words_has_no_label(model: LensModel) -> None:
    # "is" is one token, and two words by this tagger
    assert ("is", None) in labelled(model, "A is", ("A", "x"), ("i", "one"), ("s", "two"))
    # the second half of it alone is labelled
    assert ("is", "two") in labelled(model, "A is", ("A", "x"), ("s", "two"))


def test_a_probe_reads_what_was_labelled_and_says_what_it_is(model: LensModel) -> None:
    class Silver:
        name = "a rule of ours"

        def __call__(self, text: str) -> list[tuple[int, int, str]]:
            return words(("A", "letter"), ("is", "verb"))(text)

    source = ll.texts(["A is", "A ans is", "A A is", "A is is", "", "A P is"], group=[*"abcdef"])
    given = tagged_texts(model, source, Silver())
    assert [item.group for item in given.items()] == ["a", "b", "c", "d", "f"]
    found = ll.probe(model, given, position="each", folds=3, untrained=False)
    assert found.data.attrs["examples"] == 10
    assert (found.data.accuracy.sel(of="probe", point="embed") == 1).all()
    assert found.data.attrs["labelled_by"] == "a rule of ours"
    assert "labels are silver: a rule of ours gave them" in found.data.attrs["notes"]
    gold = ll.probe(model, tagged_texts(model, source, words(("A", "letter"), ("is", "verb"))),
                    position="each", folds=3, untrained=False)  # fmt: skip
    assert "silver" not in gold.data.attrs["notes"]


def test_spacy_tells_words_and_white_space_is_none() -> None:
    token = {"idx": 0, "text": "old", "tag_": "JJ", "pos_": "ADJ", "is_space": False}
    made = [SimpleNamespace(**token), SimpleNamespace(**token | {"is_space": True})]

    class Pipeline:
        def __init__(self) -> None:
            self.meta = {"lang": "en", "name": "hand", "version": "1"}

        def __call__(self, text: str) -> list[SimpleNamespace]:
            return made

    own = SpacyTagger(Pipeline())
    assert own("old ") == [(0, 3, "ADJ")] and own.name == "spaCy's en_hand 1"
    assert SpacyTagger(Pipeline(), fine=True)("old ") == [(0, 3, "JJ")]


def test_spacy_itself() -> None:
    spacy = pytest.importorskip("spacy")
    if not any(name.startswith("en_") for name in spacy.util.get_installed_models()):
        pytest.skip("no English pipeline")
    assert SpacyTagger()("The old man sat down.")[:4] == [
        (0, 3, "DET"), (4, 7, "ADJ"), (8, 11, "NOUN"), (12, 15, "VERB")
    ]  # fmt: skip
    with pytest.raises(InputError, match="no pipeline 'xx_none'"):
        SpacyTagger("xx_none")


def test_what_is_not_there_is_said(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="No word of these texts has a label"):
        tagged_texts(model, ["A is"], lambda text: [])
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "spacy":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'jupyter-layerlens\[spacy\]'"):
        tagged_texts(model, ["A is"])
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(InputError, match="does not say where in a text"):
        tagged_texts(SimpleNamespace(tokenizer=slow, name="m"), ["A is"])  # type: ignore[arg-type]
