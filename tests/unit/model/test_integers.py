"""Whole numbers, strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from layerlens.errors import InputError
from layerlens.model.integers import is_whole, whole, wholes


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_one(value: Any) -> None:
    assert whole(value, "x") == 3
    assert type(whole(value, "x")) is int
    assert wholes(value, "x") == (3,)


@pytest.mark.parametrize(
    "value", [range(1, 3), [1, 2, 1], (np.int64(1), 2), np.array([1, 2]), torch.tensor([1, 2])]
)
def test_several_each_once(value: Any) -> None:
    assert wholes(value, "x") == (1, 2)


@pytest.mark.parametrize(
    "value", [0.9, 3.0, True, np.True_, torch.tensor(True), "3", None, torch.tensor(3.0)]
)
def test_nothing_else(value: Any) -> None:
    assert not is_whole(value)
    with pytest.raises(InputError, match="x is a whole number"):
        whole(value, "x")
    with pytest.raises(InputError, match="x is a whole number"):
        wholes(value, "x")
    with pytest.raises(InputError, match="x is a whole number"):
        wholes([1, value], "x")


def test_none_or_below_the_first() -> None:
    with pytest.raises(InputError, match="x is empty"):
        wholes([], "x")
    with pytest.raises(InputError, match="count from 0"):
        wholes([1, -1], "x", least=0)
