"""The shipped toys do what they were taught, on examples that training never saw."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

import layerlens as ll
from layerlens.errors import InputError
from layerlens.model import train_digits, train_modular, train_toys
from layerlens.model.inputs import images
from layerlens.model.load import load
from layerlens.model.toys import (
    MODULUS,
    TOYS,
    WORDS,
    Examples,
    answer_accuracy,
    get_toy,
    toy_folder,
)

NAMES = sorted(TOYS)


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_on_fresh_examples(name: str) -> None:
    model = load(f"toy:{name}")
    fresh = TOYS[name].draw(1000, True, torch.Generator().manual_seed(12345))
    assert answer_accuracy(model.hf, fresh) > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_words(name: str) -> None:
    model = load(f"toy:{name}")
    prompt, answer = TOYS[name].example
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    said = model.hf(ids).logits[0, -1].argmax()
    assert model.tokenizer.decode([int(said)]) == answer
    assert model.tokenizer.decode(ids[0], skip_special_tokens=True) == prompt


@pytest.mark.parametrize("name", NAMES)
def test_loads_in_under_a_second_and_is_small(name: str) -> None:
    load(f"toy:{name}")  # the first load also imports transformers
    started = time.perf_counter()
    assert load(f"toy:{name}").proof is not None
    assert time.perf_counter() - started < 2  # 0.3 s on an idle machine
    assert sum(path.stat().st_size for path in toy_folder(name).iterdir()) < 2_000_000


def test_induction_needs_the_repetition() -> None:
    """Within the first segment, where nothing repeats yet, the model cannot know better."""
    model = load("toy:induction")
    fresh = TOYS["induction"].draw(500, True, torch.Generator().manual_seed(3))
    place = torch.arange(fresh.ids.shape[1])
    first = Examples(fresh.ids, ((place >= 1) & (place <= 4)).expand_as(fresh.answer))
    assert answer_accuracy(model.hf, first) < 0.1


def test_induction_segments_repeat_exactly() -> None:
    drawn = TOYS["induction"].draw(50, True, torch.Generator().manual_seed(4))
    for row, known in zip(drawn.ids[:, 1:], drawn.answer[:, 1:], strict=True):
        span = int(known.int().argmax()) - 1
        assert len(set(row[:span].tolist())) == span
        assert torch.equal(row[span:], row[:-span])


def test_two_heads_carry_the_short_prompt() -> None:
    """Zeroing the one head of either kind breaks six words; zeroing all others breaks nothing."""
    model = load("toy:two_heads")
    generator = torch.Generator().manual_seed(7)
    words = torch.stack([torch.randperm(len(WORDS), generator=generator)[:4] for _ in range(100)])
    begin = torch.full((100, 1), len(WORDS))
    prompts = model.tokens(torch.cat([begin, words, words[:, :2]], dim=1))
    kinds = ll.head_scores(model, length=8).data
    heads = {
        layer: int(kinds[kind].sel(layer=layer).values.argmax())
        for layer, kind in ((0, "previous_token"), (1, "induction"))
    }

    def right(*gone: tuple[int, int]) -> float:
        edits = [ll.edit("z", "zero", layer=layer, head=head) for layer, head in gone]
        said = ll.run(model, prompts, edits=edits).logits[:, -1].argmax(-1)
        return float((said == words[:, 2]).float().mean())

    others = [(layer, head) for layer in (0, 1) for head in range(4) if head != heads[layer]]
    assert right() == 1
    assert right(*others) == 1
    for place in heads.items():
        assert right(place) < 0.2


def test_modular_addition_is_right_for_every_pair() -> None:
    model = load("toy:modular")
    a, b = torch.cartesian_prod(torch.arange(MODULUS), torch.arange(MODULUS)).T
    plus, equals = torch.full_like(a, MODULUS), torch.full_like(a, MODULUS + 1)
    with torch.inference_mode():
        said = model.hf(torch.stack([a, plus, b, equals], dim=1)).logits[:, -1].argmax(-1)
    assert float((said == (a + b) % MODULUS).float().mean()) > 0.999


@pytest.mark.parametrize("name", ["modular", "addition"])
def test_held_out_pairs_are_never_trained_on(name: str) -> None:
    toy = TOYS[name]
    seen, unseen = (
        {tuple(row) for row in toy.draw(5000, out, torch.Generator().manual_seed(5)).ids.tolist()}
        for out in (False, True)
    )
    assert not seen & unseen


def test_addition_examples_add_up() -> None:
    toy = TOYS["addition"]
    drawn = toy.draw(200, False, torch.Generator().manual_seed(6))
    for row in drawn.ids.tolist():
        left, right = "".join(toy.words[each] for each in row).split("=")
        assert sum(map(int, left.split("+"))) == int(right)


@pytest.mark.parametrize("name", NAMES)
def test_the_log_tells_what_was_done(name: str) -> None:
    log = json.loads((toy_folder(name) / "training.json").read_text("utf-8"))
    assert log["held_out_accuracy"] > 0.99
    if name == "modular":
        assert log["recipe"] == json.loads(json.dumps(vars(train_modular.Recipe())))
    else:
        assert train_toys.Recipe(**log["recipe"]) == train_toys.RECIPES[name]
    assert log["curve"][0]["held_out_accuracy"] < 0.1 < log["curve"][-1]["held_out_accuracy"]
    assert log["seconds"] > 0


def test_an_unknown_toy_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="no toy model 'toy:chess'; choose one of 'toy:induction'"):
        load("toy:chess")
    assert get_toy("toy:modular") is get_toy("modular")


def test_the_script_trains_and_writes_a_model_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = train_toys.Recipe(steps=30, batch=32, rate=3e-3, decay=0.01, warmup=5)
    monkeypatch.setitem(train_toys.RECIPES, "addition", brief)
    train_toys.main(["addition", "--folder", str(tmp_path)])
    log = json.loads((tmp_path / "addition" / "training.json").read_text("utf-8"))
    assert log["curve"][-1]["loss"] < log["curve"][0]["loss"] - 0.2
    assert load(tmp_path / "addition").tokenizer.tokenize("12+3") == ["1", "2", "+", "3"]


@pytest.mark.parametrize("name", NAMES)
def test_a_toy_says_what_it_was_trained_on(name: str) -> None:
    model, toy = load(f"toy:{name}"), TOYS[name]
    assert model.trained_range == toy.trained
    assert toy.trained.form in repr(model)
    drawn = toy.draw(20, False, torch.Generator().manual_seed(0))
    assert drawn.ids.shape[1] == toy.trained.longest
    assert model.tokens(drawn.ids).notes == ()
    prompt, answer = toy.example
    assert prompt in toy.trained.form
    model.token_id(answer)
    with pytest.raises(InputError, match=r"'Paris' is not in the vocabulary.*texts like"):
        model.token_id("Paris")


def test_a_prompt_outside_of_the_range_is_remarked_on() -> None:
    model = load("toy:induction")
    (note,) = model.tokens(list(range(49))).notes
    assert "49 tokens, but this model was trained on at most 48" in note
    assert model.tokens(model.tokens(list(range(49)))).notes == (note,)
    with pytest.raises(InputError, match=r"'57\+88=' is in the vocabulary.*'57 \+ 88 ='"):
        load("toy:modular").tokens("57+88=")


def test_the_range_is_saved_with_a_toy(tmp_path: Path) -> None:
    toy = TOYS["modular"]
    train_toys.save(toy, train_modular.build(), {}, tmp_path)
    assert load(tmp_path, prove=False).trained_range == toy.trained


def test_the_digits_are_named_as_well_as_the_log_says() -> None:
    model = load("toy:digits")
    log = json.loads((toy_folder("digits") / "training.json").read_text())
    shown, classes = train_digits.pictures()
    tokens = model.tokens(images(list(shown[: train_digits.TEST])))
    fed = train_digits.fed(shown[: train_digits.TEST])
    assert torch.allclose(tokens.given["pixel_values"], fed, atol=1e-6)
    reached = train_digits.accuracy(model.hf, fed, torch.from_numpy(classes[: train_digits.TEST]))
    assert reached == pytest.approx(log["held_out_accuracy"], abs=0.003)
    assert reached > 0.9
    assert model.token_id("7") == 7
