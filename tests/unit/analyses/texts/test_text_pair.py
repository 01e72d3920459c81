"""Texts that are compared position by position."""

from __future__ import annotations

import pytest
import torch

from layerlens.analyses.texts.text_pair import make_pair, make_pairs
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel


def test_equal_lengths_pair_equal_positions(gpt2: LensModel) -> None:
    pair = make_pair(gpt2.tokens([5, 6, 7, 8]), gpt2.tokens([5, 9, 7, 3]))
    assert pair.partner == (0, 1, 2, 3)
    assert pair.differing == (1, 3)
    assert pair.shared == 1
    assert pair.base is pair.corrupt
    assert pair.words == "clean activations into the corrupted run"


def test_noising_patches_the_clean_run(gpt2: LensModel) -> None:
    pair = make_pair(gpt2.tokens([5, 6]), gpt2.tokens([5, 9]), direction="noise")
    assert pair.base is pair.clean
    assert pair.source is pair.corrupt
    assert pair.words == "corrupted activations into the clean run"


def test_unequal_lengths_are_refused_with_both_texts_shown(gpt2: LensModel) -> None:
    with pytest.raises(InputError) as caught:
        make_pair(gpt2.tokens([5, 6, 7]), gpt2.tokens([5, 16, 7, 3]))
    first, clean, corrupt = str(caught.value).splitlines()
    assert "3 tokens" in first and "4" in first and "part at position 1" in first
    assert "align=[" in first
    assert clean == "clean:   0:'[5]'  1:'[6]'   2:'[7]'"
    assert corrupt == "corrupt: 0:'[5]'  1:'[16]'  2:'[7]'  3:'[3]'"


def test_an_alignment_says_what_belongs_together(gpt2: LensModel) -> None:
    clean, corrupt = gpt2.tokens([5, 6, 7]), gpt2.tokens([5, 9, 9, 7])
    align = [(0, 0), (1, 2), (-1, -1)]
    pair = make_pair(clean, corrupt, align)
    assert pair.partner == (0, None, 1, 2)
    assert pair.differing == (1, 2)
    assert pair.shared == 1
    noise = make_pair(clean, corrupt, align, "noise")
    assert noise.partner == (0, 2, 3)
    assert noise.differing == (1,)
    assert noise.shared == 1


@pytest.mark.parametrize(
    ("align", "message"),
    [
        ([], "empty"),
        ([(0, 9)], "position 9 of the corrupted text"),
        ([(-4, 0)], "position -4 of the clean text"),
        ([(0, 0), (0, 1)], "position 0 of the clean text twice"),
        ([(0,)], "pairs"),
    ],
)
def test_a_wrong_alignment_is_refused(
    gpt2: LensModel, align: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_pair(gpt2.tokens([5, 6, 7]), gpt2.tokens([5, 16, 7]), align)


def test_batches_pair_row_by_row_without_padding(gpt2: LensModel) -> None:
    clean = gpt2.tokens([[5, 6, 7], [4, 3]])
    corrupt = gpt2.tokens([[5, 9, 7], [4, 8]], padding_side="left")
    pairs = make_pairs(clean, corrupt)
    assert [pair.base.ids.tolist() for pair in pairs] == [[[5, 9, 7]], [[4, 8]]]
    assert [pair.differing for pair in pairs] == [(1,), (1,)]
    assert all(pair.clean.single and bool(torch.all(pair.clean.mask)) for pair in pairs)


def test_batches_of_different_size_are_refused(gpt2: LensModel) -> None:
    with pytest.raises(InputError, match="a list of 2 clean and a list of 1 corrupted"):
        make_pairs(gpt2.tokens([[5], [4]]), gpt2.tokens([[5]]))
    with pytest.raises(InputError, match="one text clean and a list of 1"):
        make_pairs(gpt2.tokens([5]), gpt2.tokens([[5]]))
    with pytest.raises(InputError, match="1 entries for 2 pairs"):
        make_pairs(gpt2.tokens([[5], [4]]), gpt2.tokens([[5], [4]]), [None])
    with pytest.raises(InputError, match="'denoise' or 'noise'"):
        make_pair(gpt2.tokens([5]), gpt2.tokens([5]), direction="both")
