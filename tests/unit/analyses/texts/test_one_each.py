"""One value of an option for each text."""

from __future__ import annotations

import numpy as np
import pytest

from layerlens.analyses.texts.one_each import one_each
from layerlens.errors import InputError


def test_one_value_is_for_all_and_a_list_has_one_each() -> None:
    assert one_each(" Paris", 2, "answer") == [" Paris", " Paris"]
    assert one_each(None, 2, "answer") == [None, None]
    assert one_each((3, 4), 2, "answer") == [3, 4]
    assert one_each(np.array([3, 4]), 2, "answer") == [3, 4]


def test_of_one_text_alone_a_list_is_the_value() -> None:
    assert one_each([3, 4], 1, "subject", alone=True) == [[3, 4]]
    assert one_each([[3, 4]], 1, "subject") == [[3, 4]]


def test_a_wrong_count_is_refused() -> None:
    with pytest.raises(InputError, match="subject has 2 entries for 3 texts"):
        one_each([1, 2], 3, "subject")
