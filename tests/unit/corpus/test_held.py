"""Analyses of lists take a corpus too: all of its texts at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.corpus import held as corpus
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

TEXTS = ["cat dog owl cat", "fox cat owl fox", "dog dog cat owl"]
POOLED = ["finercut", "macro_influence", "quantisation_sensitivity", "invariance", "skip_layers"]


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*TEXTS, "", "bee bee"]))
    return path


@pytest.mark.parametrize("name", POOLED)
def test_a_corpus_is_its_list(model: LensModel, name: str, file: Path) -> None:
    asked = registry.get(name)
    plain = asked(model, TEXTS)
    read = asked(model, ll.texts(file, split="line", limit=3))
    for variable in plain.data.data_vars:
        np.testing.assert_array_equal(plain.data[variable], read.data[variable], variable)
    assert "ll.texts(" in read.code
    assert "limit=3" in read.code


def test_an_estimate_takes_it_too(model: LensModel) -> None:
    count = ll.estimate("finercut", model, ll.texts(TEXTS)).passes
    assert count == ll.estimate("finercut", model, TEXTS).passes


def test_every_text_by_itself_and_texts_of_options(model: LensModel) -> None:
    lens = ll.logit_lens(model, ll.texts([*TEXTS, " "]))
    np.testing.assert_array_equal(lens.data.token_id, ll.logit_lens(model, TEXTS).data.token_id)
    read, plain = (
        ll.ablate_sweep(model, TEXTS[0], how="resample", reference=given, draws=3)
        for given in (ll.texts(TEXTS[1:]), TEXTS[1:])
    )
    np.testing.assert_array_equal(read.data.effect, plain.data.effect)


def test_rows_are_as_long_as_the_corpus_says(model: LensModel) -> None:
    packed = corpus.held(ll.texts(TEXTS, length=4, long="cut"), model)
    assert [len(row) for row in packed] == [4, 4, 4]
    assert packed[0] == model.tokens(TEXTS[0]).ids[0, :4].tolist()


def test_what_cannot_be_held_is_refused(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no text with a token"):
        ll.finercut(model, ll.texts(["", " "]))
    monkeypatch.setattr(corpus, "MOST", 2)
    with pytest.raises(InputError, match="more than 2 texts, and this analysis holds all of them"):
        ll.finercut(model, ll.texts(TEXTS))
    ll.layer_metrics(model, ll.texts(TEXTS), ["block_influence"])
