"""What a newcomer may type by mistake is answered with one sentence of our own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import layerlens as ll
from layerlens.errors import LayerLensError
from layerlens.model.lensmodel import LensModel

TEXT, OTHER = "cat dog owl cat", "cat fox owl cat"


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


LOAD: dict[str, Callable[[LensModel, Path], Any]] = {
    "a number": lambda m, at: ll.load(3),
    "a tokenizer": lambda m, at: ll.load(m.tokenizer),
    "a list": lambda m, at: ll.load(["gpt2"]),
    "a misspelt toy": lambda m, at: ll.load("toy:inductoin"),
    "a folder that is not there": lambda m, at: ll.load(at / "nothing"),
    "a folder without a model": lambda m, at: ll.load(at),
    "a text file": lambda m, at: ll.load(at / "text.txt"),
    "a class": lambda m, at: ll.load(type(m.hf)),
    "weights alone": lambda m, at: ll.load(m.hf.state_dict()),
    "a module of torch": lambda m, at: ll.load(torch.nn.Linear(2, 2)),
    "a number as tokenizer": lambda m, at: ll.load(m.hf, 3),
    "no dtype": lambda m, at: ll.load("toy:induction", dtype="float23"),
    "no device": lambda m, at: ll.load("toy:induction", device="gpu"),
    "another keyword": lambda m, at: ll.load("toy:induction", devcie="cpu"),
}
TOKENS: dict[str, Any] = {
    "nothing": None,
    "an empty text": "",
    "an empty list": [],
    "an empty text among others": ["cat", ""],
    "a number": 5,
    "float ids": [1.0, 2.0],
    "NaN": [math.nan],
    "truth values": [True, False],
    "a negative id": [-1, 2],
    "an id too large": [10**6],
    "a float tensor": torch.tensor([1.0, 2.0]),
    "a float array": np.array([1.0, 2.0]),
    "a tensor of three axes": torch.zeros(1, 1, 2, dtype=torch.long),
    "a table": pd.DataFrame({"text": ["cat"]}),
    "a generator": (text for text in ["cat", "dog"]),
    "texts and ids": ["cat", 3],
    "a text that is missing": ["cat", math.nan],
    "what a tokenizer gives": {"input_ids": [[1, 2]]},
    "bytes": b"cat",
    "a path": Path("text.txt"),
    "a set": {"cat", "dog"},
}
LENS: dict[str, dict[str, Any]] = {
    "top_k": {"top_k": -1},
    "a float top_k": {"top_k": 2.5},
    "a text top_k": {"top_k": "5"},
    "no top_k": {"top_k": None},
    "a misspelt point": {"points": "posst"},
    "a number as points": {"points": 3},
    "a tracked float": {"tracked": [1.5]},
    "a position beyond": {"positions": 99},
    "a float position": {"positions": 1.0},
    "edits as text": {"edits": "resid_post.0"},
    "edits as a number": {"edits": 3},
    "a limit as text": {"memory_limit": "1GB"},
    "no limit": {"memory_limit": None},
    "a limit below zero": {"memory_limit": -1},
    "a word for add_bos": {"add_bos": "yes"},
    "an option of others": {"layers": [1]},
}
SWEEP: dict[str, dict[str, Any]] = {
    "a float answer": {"answer": 1.0},
    "a negative answer": {"answer": -1},
    "too many answers": {"answer": ["dog", "fox"]},
    "no metric": {"metric": None},
    "a metric that raises": {"metric": lambda logits: logits[:, 10**9]},
    "a metric without arguments": {"metric": lambda: 1},
    "a number as site": {"site": 3},
    "no site": {"site": None},
    "a number as by": {"by": 1},
    "a layer below all": {"layers": [-9]},
    "all layers as a word": {"layers": "all"},
    "no layers": {"layers": []},
    "layers of NaN": {"layers": math.nan},
    "a window as text": {"window": "2"},
    "a float window": {"window": 1.5},
    "verify below zero": {"verify": -1},
    "verify as text": {"verify": "all"},
    "a float verify": {"verify": 1.5},
    "pairs that are none": {"align": [1, 2]},
    "a float pair": {"align": [(0.5, 1)]},
    "an unknown method": {"method": "fast"},
}
EDITS: dict[str, tuple[Any, ...]] = {
    "no site": (None, "zero"),
    "a number as site": (3, "zero"),
    "an unknown site": ("residpost.0", "zero"),
    "an unknown operation": ("resid_post.0", "sett", 1.0),
    "a value as text": ("resid_post.0", "set", "1.0"),
    "NaN": ("resid_post.0", "set", math.nan),
    "an array of words": ("resid_post.0", "set", np.array(["a"])),
    "a ragged list": ("resid_post.0", "set", [[1], [1, 2]]),
    "a value of another width": ("resid_post.0", "set", np.zeros(7)),
    "a layer beyond": ("resid_post.99", "zero"),
    "a head beyond": ("z.0.99", "zero"),
}
OTHERS: dict[str, Callable[[LensModel, Path], Any]] = {
    "a model of transformers": lambda m, at: ll.logit_lens(m.hf, TEXT),
    "model and text the wrong way round": lambda m, at: ll.logit_lens(TEXT, m),
    "no text": lambda m, at: ll.logit_lens(m),
    "one text of two": lambda m, at: ll.patch_sweep(m, TEXT),
    "texts of unequal length": lambda m, at: ll.patch_sweep(m, TEXT, "cat dog"),
    "generate less than none": lambda m, at: m.generate(TEXT, max_new_tokens=-1),
    "generate a float": lambda m, at: m.generate(TEXT, max_new_tokens=2.5),
    "generate by a misspelt option": lambda m, at: m.generate(TEXT, max_new_token=2),
    "generate at no temperature": lambda m, at: m.generate(TEXT, do_sample=True, temperature=-1.0),
    "metrics as a number": lambda m, at: ll.layer_metrics(m, TEXT, 3),
    "no metrics": lambda m, at: ll.layer_metrics(m, TEXT, []),
    "a misspelt metric": lambda m, at: ll.layer_metrics(m, TEXT, ["block_influense"]),
    "skip_first as a word": lambda m, at: ll.layer_metrics(m, TEXT, skip_first="yes"),
    "a float batch_size": lambda m, at: ll.layer_metrics(m, TEXT, batch_size=1.5),
    "options as a list": lambda m, at: ll.layer_metrics(m, TEXT, metric_options=[1]),
    "options of no metric": lambda m, at: ll.layer_metrics(
        m, TEXT, ["angular_distance"], metric_options={"angular_distance": 3}
    ),
    "a checkpoint as a number": lambda m, at: ll.layer_metrics(m, ll.texts([TEXT]), checkpoint=3),
    "noise as text": lambda m, at: ll.causal_trace(m, TEXT, noise="3"),
    "noise of NaN": lambda m, at: ll.causal_trace(m, TEXT, noise=math.nan),
    "a seed below zero": lambda m, at: ll.causal_trace(m, TEXT, seed=-1),
    "generated less than none": lambda m, at: ll.back_patch(m, TEXT, generate=-1),
    "coefficients as text": lambda m, at: ll.steering(m, TEXT, OTHER, text=TEXT, coefficients="x"),
    "record no site": lambda m, at: ll.record(m, TEXT, None),
    "record a number": lambda m, at: ll.record(m, TEXT, 3),
    "estimate a number": lambda m, at: ll.estimate(3, m, TEXT),
    "open nothing": lambda m, at: ll.open(None),
    "open a list": lambda m, at: ll.open(["lens.nc"]),
    "open bytes": lambda m, at: ll.open(b"lens.nc"),
    "open a folder": lambda m, at: ll.open(at),
    "open another file": lambda m, at: ll.open(at / "text.txt"),
    "save under a number": lambda m, at: ll.logit_lens(m, TEXT).save(3),
    "save into a folder": lambda m, at: ll.logit_lens(m, TEXT).save(at),
    "a view of no model": lambda m, at: ll.LensView("toy:induction", TEXT),
    "a view with a misspelt option": lambda m, at: ll.LensView(m, TEXT, topk=3),
    "a view of one text of two": lambda m, at: ll.PatchView(m, TEXT),
    "a view of no metric": lambda m, at: ll.MetricsView(m, TEXT, ["nope"]),
    "explore no text": lambda m, at: ll.explore(m, None),
}
"""Whatever else; the model and a folder with one text file are given."""


def refused(call: Callable[[], Any]) -> None:
    """The call ends in one sentence that layerlens wrote, or in Python's own of a signature."""
    with pytest.raises((LayerLensError, TypeError)) as caught:
        call()
    said = str(caught.value)
    if isinstance(caught.value, TypeError):
        assert "argument" in said or "did you mean" in said
    assert 10 < len(said) < 700


@pytest.mark.parametrize("what", LOAD)
def test_load(model: LensModel, tmp_path: Path, what: str) -> None:
    (tmp_path / "text.txt").write_text("cat dog owl")
    refused(lambda: LOAD[what](model, tmp_path))


@pytest.mark.parametrize("what", TOKENS)
def test_tokens(model: LensModel, what: str) -> None:
    refused(lambda: model.tokens(TOKENS[what]))


@pytest.mark.parametrize("what", LENS)
def test_lens(model: LensModel, what: str) -> None:
    refused(lambda: ll.logit_lens(model, TEXT, **LENS[what]))


@pytest.mark.parametrize("what", SWEEP)
def test_sweep(model: LensModel, what: str) -> None:
    refused(lambda: ll.patch_sweep(model, TEXT, OTHER, **SWEEP[what]))


@pytest.mark.parametrize("what", EDITS)
def test_edit(model: LensModel, what: str) -> None:
    refused(lambda: ll.run(model, TEXT, ll.edit(*EDITS[what])))


@pytest.mark.parametrize("what", OTHERS)
def test_others(model: LensModel, tmp_path: Path, what: str) -> None:
    (tmp_path / "text.txt").write_text("cat dog owl")
    refused(lambda: OTHERS[what](model, tmp_path))


@pytest.mark.parametrize(
    "texts",
    [
        np.array(["cat dog", "dog"]),
        pd.Series(["cat dog", "dog"]),
        ("cat dog", "dog"),
        pd.Series([[1, 2, 3], [1, 2]]),
    ],
)
def test_what_holds_texts_is_read(model: LensModel, texts: Any) -> None:
    assert model.tokens(texts).ids.shape == (2, 3)


def test_numbers_of_numpy_are_numbers(model: LensModel) -> None:
    plain = ll.causal_trace(model, TEXT, subject="dog", samples=2, noise=2.0, verify=1)
    arrays = {"samples": np.int64(2), "noise": np.float32(2.0), "verify": torch.tensor(1)}
    other = ll.causal_trace(model, TEXT, subject="dog", **arrays)
    np.testing.assert_array_equal(plain.data.restored, other.data.restored)
