"""The modular toy learns by heart first and understands much later, and its checkpoints say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import layerlens as ll
from layerlens.errors import InputError
from layerlens.model import train_modular
from layerlens.model.load import load
from layerlens.model.toy_checkpoints import FILE, steps_of
from layerlens.model.toys import modular_pairs, toy_folder

LOG = json.loads((toy_folder("modular") / "training.json").read_text("utf-8"))


def reached(which: str) -> int:
    """The first step of the log at which an accuracy is 99 %."""
    return next(point["step"] for point in LOG["curve"] if point[which] >= 0.99)


def accuracy(step: int, *, held_out: bool) -> float:
    ids, answers = train_modular.sums(modular_pairs(held_out=held_out)[:1000])
    with torch.inference_mode():
        said = load(f"toy:modular@{step}", prove=False).hf(ids).logits[:, -1]
    return train_modular.measured(said, answers)[1]


def test_understanding_comes_long_after_knowing_by_heart() -> None:
    assert reached("held_out_accuracy") > 4 * reached("accuracy")


def test_the_checkpoints_are_those_of_the_log() -> None:
    steps = steps_of("modular")
    assert len(steps) >= 12
    assert (toy_folder("modular") / FILE).stat().st_size < 2_000_000
    curve = {point["step"]: point for point in LOG["curve"]}
    for step in (0, 200, steps[-1]):
        assert accuracy(step, held_out=False) == pytest.approx(curve[step]["accuracy"], abs=0.02)
        held_out = curve[step]["held_out_accuracy"]
        assert accuracy(step, held_out=True) == pytest.approx(held_out, abs=0.05)


def test_the_last_checkpoint_is_the_toy_in_float16() -> None:
    last, toy = load(f"toy:modular@{steps_of('modular')[-1]}", prove=False), load("toy:modular")
    for one, other in zip(last.hf.parameters(), toy.hf.parameters(), strict=True):
        assert torch.equal(one, other.half().float())
    assert last.load_code == "ll.load('toy:modular@1200', prove=False)"
    assert last.trained_range == toy.trained_range


def test_held_out_pairs_are_all_others() -> None:
    seen, apart = (
        {(a, b) for a, b in modular_pairs(held_out=out).tolist()} for out in (False, True)
    )
    assert not seen & apart
    assert len(seen | apart) == 113**2
    mirrored = sum((b, a) in seen for a, b in apart) / len(apart)
    assert mirrored == pytest.approx(0.3, abs=0.02)


def test_runs_hold_every_step() -> None:
    runs = ll.Runs("toy:modular")
    assert tuple(runs.labels) == steps_of("modular")
    assert runs.load_code == "ll.Runs('toy:modular')"
    assert runs.model(0).name == "toy:modular@0"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("toy:modular@7", "ships steps 0, 50"),
        ("toy:induction@0", "only the trained model"),
        ("toy:chess@0", "no toy model"),
    ],
)
def test_a_step_that_is_not_there(source: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load(source)


def test_a_toy_without_checkpoints_has_no_runs() -> None:
    with pytest.raises(InputError, match="ships no checkpoints"):
        ll.Runs("toy:induction")


def test_the_script_keeps_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brief = train_modular.Recipe(steps=3, warmup=1, cooldown=1, kept=(0, 3))
    monkeypatch.setattr(train_modular, "Recipe", lambda: brief)
    monkeypatch.setattr(
        train_modular, "modular_pairs", lambda held_out=False: torch.tensor([[1, 2]])
    )
    train_modular.main(["--folder", str(tmp_path)])
    log = json.loads((tmp_path / "training.json").read_text("utf-8"))
    assert log["recipe"]["kept"] == [0, 3]
    assert (tmp_path / FILE).is_file()
    assert load(tmp_path, prove=False).trained_range == load("toy:modular").trained_range
