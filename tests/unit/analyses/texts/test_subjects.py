"""What names positions for several texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layerlens.analyses.texts.subjects import each
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel


def test_one_each_and_the_same_in_every_text_are_told_by_type() -> None:
    assert each([1, 2], 1, True, "subject") == [[1, 2]]
    assert each([[1], [2, 3]], 2, False, "subject") == [[1], [2, 3]]
    assert each(["a", "b c"], 2, False, "subject") == ["a", "b c"]
    for same in ((1, 2), 3, "a", slice(1, 3), range(2), None):
        assert each(same, 2, False, "subject") == [same, same]


@pytest.mark.parametrize("texts", [2, 3])
def test_bare_positions_in_a_list_could_mean_either(texts: int) -> None:
    for given in ([1, 2], np.array([1, 2])):
        with pytest.raises(InputError, match=r"write \[\[1\], \[2\]\] for one each, or \(1, 2\)"):
            each(given, texts, False, "subject")


def test_there_is_one_for_each_text() -> None:
    with pytest.raises(InputError, match="subject has 2 entries for 3 texts"):
        each(["a", "b"], 3, False, "subject")


@pytest.mark.parametrize("layers", [np.int64(-1), np.array([2]), (2, 2), [np.int32(2)]])
def test_layers_are_whole_numbers_of_any_kind(gpt2: LensModel, layers: Any) -> None:
    assert gpt2.layers(layers) == [2]


@pytest.mark.parametrize("layers", [0.9, True, "1", [0, 1.0], np.array([0.5])])
def test_nothing_else_is_a_layer(gpt2: LensModel, layers: Any) -> None:
    with pytest.raises(InputError, match="layers is a whole number"):
        gpt2.layers(layers)
