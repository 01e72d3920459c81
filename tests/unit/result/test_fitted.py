"""What was learned as a file: exact, atomic, never code, and clear when it is damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save, save_file

import layerlens as ll
from layerlens.errors import InputError, ResultError
from layerlens.result import Check
from layerlens.result.checks import Checks
from layerlens.result.fitted import Fitted, ModelFacts, as_arrays

FACTS = ModelFacts("tiny", "llama", "float32", 2, 4, "abc")


def fitted() -> Fitted:
    arrays = {
        "weight": torch.randn(2, 4, generator=torch.Generator().manual_seed(0)),
        "half": torch.tensor([1.5, float("nan"), float("inf")], dtype=torch.bfloat16),
        "count": np.arange(3),
    }
    return Fitted(
        kind="probe",
        arrays=as_arrays(arrays),
        model=FACTS,
        data="123",
        options={"rate": 0.1, "layers": [1, 2], "é": "\ud83d"},
        scores={"train": {"accuracy": 0.9}, "test": {"accuracy": 0.7}},
        checks=Checks([Check("a", float("nan"), 1.0, False, "made up")]),
        call="ll.probe(model)",
        created="2025-01-01",
        versions={"torch": "2"},
    )


def test_open_gives_what_was_saved(tmp_path: Path) -> None:
    made = fitted()
    path = made.save(tmp_path / "a.safetensors")
    opened = ll.open(path)
    assert isinstance(opened, Fitted)
    assert made.identical(opened)
    assert not made.identical(replace(opened, data="other"))
    assert opened.path == path
    assert (made.code, opened.code) == ("ll.probe(model)", f"ll.open({str(path)!r})")
    assert opened["half"].dtype == torch.bfloat16
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_are_copies() -> None:
    weight = torch.zeros(4, 4)
    arrays = as_arrays({"turned": weight.T, "view": weight[0]})
    weight.fill_(1)
    assert float(arrays["turned"].sum() + arrays["view"].sum()) == 0
    save(arrays)  # which refuses memory that two of them share


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(InputError, match="weight is a list"):
        as_arrays({"weight": [1, 2]})
    with pytest.raises(InputError, match="Nothing was learned"):
        as_arrays({})
    with pytest.raises(InputError, match="has no 'bias': it has weight, half, count"):
        fitted()["bias"]


def test_other_files_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"must end in \.safetensors"):
        fitted().save(tmp_path / "a.pt")
    with pytest.raises(ResultError, match="There is no file"):
        ll.open(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ResultError, match="nothing that layerlens fitted"):
        ll.open(tmp_path / "a.safetensors")


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = fitted().save(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:length])
        with pytest.raises(ResultError, match="damaged"):
            ll.open(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", 99),
        ("format", "x"),
        ("kind", 3),
        ("options", "x"),
        ("scores", []),
        ("checks", "[3]"),
        ("model", {"name": "x"}),
        ("complete", "yes"),
        ("created", None),
        ("arrays", ["absent"]),
    ],
)
def test_damaged_words_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    path = fitted().save(tmp_path / "a.safetensors")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["layerlens_fitted"])
    about[name] = value
    path.write_bytes(save(load(content), {"layerlens_fitted": json.dumps(about)}))
    with pytest.raises(ResultError, match="damaged"):
        ll.open(path)
    about.pop(name)
    path.write_bytes(save(load(content), {"layerlens_fitted": json.dumps(about)}))
    with pytest.raises(ResultError, match="damaged"):
        ll.open(path)
