"""The card of a model: its numbers are those of the analyses, its words the author's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import layerlens as ll
from layerlens.cards import Card, Part, Sheet, make
from layerlens.cards.card import NOT_STATED
from layerlens.errors import Cancelled, InputError, ResultError

TEXT = "cat dog owl cat"
KNOWN = {TEXT: "dog", "cat dog owl": "bee"}


@pytest.fixture(scope="module")
def model() -> ll.LensModel:
    return ll.load("toy:induction")


@pytest.fixture(scope="module")
def card(model: ll.LensModel) -> Card:
    return ll.card(model, [TEXT], facts=KNOWN, base=model, intended_use="Teaching | showing.")


def test_numbers_are_those_of_the_analyses_alone(card: Card, model: ll.LensModel) -> None:
    layers, facts = card.part("Quantitative analyses").sheets
    measured = ll.layer_metrics(model, [TEXT], ["residual_norm", "block_influence"]).data
    columns = dict(zip(layers.columns, zip(*layers.rows, strict=True), strict=True))
    assert columns["norm after"] == tuple(measured.residual_norm.values[1:])
    assert columns["influence"] == tuple(measured.block_influence.values)
    assert columns["weights changed, of their length"] == (0.0, 0.0)
    best = ll.head_roles(model).data.best_role.values
    assert [sum(int(n.split()[0]) for n in said.split(", ") if n != "none")
            for said in columns["heads with a role"]] == (best >= 0).sum(1).tolist()  # fmt: skip
    lens = ll.logit_lens(model, TEXT, tracked=["dog"]).data
    assert facts.rows[0] == (TEXT, "dog", 1, 1.0, int(lens.settle_layer[-1]))
    assert facts.rows[1][2] > 1 and facts.rows[1][4] is None
    assert "1 of 2" in facts.caption


def test_nothing_is_invented(card: Card) -> None:
    assert card.part("Intended use").lines == ["Teaching | showing."]
    for title in ("Factors", "Training data", "Ethical considerations"):
        assert card.part(title).lines == [NOT_STATED]
    assert "license" not in card.facts
    assert any("Licence: Not stated" in line for line in card.part("Model details").lines)


def test_a_licence_is_read_from_the_folder(model: ll.LensModel, tmp_path: Path) -> None:
    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    mine = ll.load(str(tmp_path))
    assert make._licence(mine) == "mit"
    (tmp_path / "README.md").write_text("# Mine\n")
    assert make._licence(mine) is None
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n# Mine\n")
    with pytest.raises(InputError, match="mend it, or state licence="):
        make._licence(mine)


def test_json_comes_back(card: Card, tmp_path: Path) -> None:
    again = Card.open(card.json(tmp_path / "card.json"))
    assert again.to_dict() == card.to_dict()
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ResultError, match="is no card"):
        Card.open(tmp_path / "other.json")


def test_markdown_is_what_a_hub_reads(card: Card, tmp_path: Path) -> None:
    text = card.markdown(tmp_path / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "transformers"
    assert "# toy:induction" in body and "Teaching | showing." in body
    table = [line for line in body.splitlines() if line.startswith("| cat dog owl cat |")]
    assert table == ["| cat dog owl cat | dog | 1 | 1 | 1 |"]
    named = Card("a", {"license": "mit", "tags": []}, [Part("One", [], [Sheet("c", ("x|y",), ())])])
    assert "license: mit" in named.to_markdown() and r"x\|y" in named.to_markdown()


def test_pages_make_no_request_and_escape(card: Card, tmp_path: Path) -> None:
    page = card.html(tmp_path / "card.html").read_text()
    assert page.count("<iframe") == len(card.part("Quantitative analyses").figures) == 4
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="http' not in page
    loud = Card("<b>", {}, [Part("<i>", ["<script>"])])
    assert "<script>" not in loud._repr_html_() and "<b>" not in loud._repr_html_()
    both = loud.beside(card).html(tmp_path / "both.html").read_text()
    assert both.count("<h2>") == 2 and both.count("<h3>") == 1 + len(card.parts)


def test_figures_can_be_added(model: ll.LensModel) -> None:
    own = Card("a", {}, [])
    own.add(ll.logit_lens(model, TEXT), "How it comes about", "Mine")
    assert [part.title for part in own.parts] == ["Mine"]
    assert "How it comes about" in own._repr_html_()


def test_what_cannot_be_measured_is_said(model: ll.LensModel) -> None:
    made = ll.card(model, [TEXT], facts={TEXT: "unheard"}, figures=False)
    assert any(
        line.startswith("Not measured: what it knows.")
        for line in made.part("Caveats and recommendations").lines
    )
    assert len(made.part("Quantitative analyses").sheets) == 1
    with pytest.raises(InputError, match="one text"):
        ll.card(model, [])


def test_a_check_that_does_not_hold_is_said(model: ll.LensModel, monkeypatch: Any) -> None:
    def failing(*given: Any, **options: Any) -> Any:
        result = ll.logit_lens(*given, **options)
        result.checks[:] = [result.checks[0]._replace(name="broken", ok=False)]
        return result

    monkeypatch.setattr(make, "logit_lens", failing)
    made = ll.card(model, [TEXT], facts=KNOWN, figures=False)
    told = [line for line in made.part("Caveats and recommendations").lines if "broken" in line]
    assert len(told) == len(KNOWN) and "logit_lens" in told[0]


def test_what_was_done_is_kept_when_it_is_stopped(model: ll.LensModel, monkeypatch: Any) -> None:
    def stopped(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "head_roles", stopped)
    with pytest.raises(Cancelled) as caught:
        ll.card(model, [TEXT], facts=KNOWN, ethics="None.")
    partial = caught.value.partial
    assert isinstance(partial, Card) and partial.part("Quantitative analyses").figures
    assert partial.part("Ethical considerations").lines == ["None."]
    assert json.dumps(partial.to_dict())
