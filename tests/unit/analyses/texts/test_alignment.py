"""Which positions of two texts belong together: equal tokens, gaps from their ends."""

from __future__ import annotations

import pytest

from layerlens.analyses.texts.alignment import propose


@pytest.mark.parametrize(
    ("clean", "corrupt", "links"),
    [
        ([1, 2, 3, 9], [1, 5, 6, 7, 9], [(0, 0), (1, 2), (2, 3), (3, 4)]),
        ([1, 2, 9], [1, 9], [(0, 0), (2, 1)]),
        ([1, 2], [3, 4, 5], [(0, 1), (1, 2)]),
        ([5, 1, 2, 3], [1, 2, 3], [(1, 0), (2, 1), (3, 2)]),
        ([1, 2, 3], [1, 2, 3], [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_pairs(clean: list[int], corrupt: list[int], links: list[tuple[int, int]]) -> None:
    assert propose(clean, corrupt) == links


def test_a_token_that_comes_hundreds_of_times_is_paired_too() -> None:
    row = [7, 8] * 300
    assert propose(row, [1, *row]) == [(i, i + 1) for i in range(600)]
