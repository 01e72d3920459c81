"""Which blocks an option means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layerlens.errors import InputError
from layerlens.model.blocks import find_layers


@pytest.mark.parametrize(
    ("which", "found"),
    [
        (None, [0, 1, 2, 3]),
        (2, [2]),
        (-1, [3]),
        ([3, 0, -1], [0, 3]),
        (range(1, 3), [1, 2]),
        (slice(None, None, -2), [1, 3]),
        (np.int64(1), [1]),
        (np.array([2, 0]), [0, 2]),
    ],
)
def test_blocks_are_named_by_numbers_and_slices(which: Any, found: list[int]) -> None:
    layers = find_layers(4, which)
    assert layers == found
    assert all(type(layer) is int for layer in layers)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (4, "Layer 4 does not exist"),
        ([0, -5], "Layer -5 does not exist"),
        ([], "layers is empty"),
        (slice(9, None), "layers is empty"),
        (True, "layers is a whole number"),
        ("all", "layers is a whole number"),
        ([1.0], "layers is a whole number"),
    ],
)
def test_what_is_no_block_is_refused(which: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_layers(4, which)
