"""The terms of the field, where they are found and what is said of them."""

from __future__ import annotations

import layerlens as ll
from layerlens.export.meta import meta_of
from layerlens.export.metrics_meta import metrics_meta_of
from layerlens.export.patch_meta import patch_meta_of
from layerlens.glossary import PAGE, TERMS, page, terms_in

TEXT = "cat dog owl cat"


def test_the_page_is_as_it_would_be_written() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m layerlens.glossary"


def test_terms_are_sentences() -> None:
    assert len(TERMS) > 40
    for name, term in TERMS.items():
        assert term.definition.endswith("."), name
        assert not any(name == word for word in term.words), name


def test_terms_are_found_as_words() -> None:
    found = terms_in(["KL divergence of kl_to_final, in nats", "the heads' q", "a MLP's"])
    assert set(found) == {"KL", "nats", "head", "q, k, v", "MLP"}
    assert list(found) == sorted(found, key=str.casefold)
    assert terms_in(["catalogue, headline, quantity, Klein"]) == {}


def test_the_table_of_terms() -> None:
    assert list(ll.terms("bits", "logarithms").index) == ["nats"]
    assert len(ll.terms()) == len(TERMS)


def test_the_other_views_have_a_lead_and_terms_too() -> None:
    model = ll.load("toy:induction")
    lens = ll.logit_lens(model, TEXT)
    metrics = ll.layer_metrics(model, [TEXT, "owl fox bee"], ["cka"])
    sweep = ll.patch_sweep(model, TEXT, "cat fox owl cat")
    told = (meta_of(lens.data), metrics_meta_of(metrics.data), patch_meta_of(sweep.data))
    for meta, term in zip(told, ("logit lens", "CKA", "recovered"), strict=True):
        assert meta["lead"].endswith(".")
        assert term in meta["terms"]
