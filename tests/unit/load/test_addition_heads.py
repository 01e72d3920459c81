"""How the addition toy adds: which digits its heads read, what is lost without them, what it fails.

Positions are those of ``123+456=0579``: a at 0 to 2, b at 4 to 6, the sum at 8 to 11.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.model.lensmodel import LensModel
from layerlens.model.load import load
from layerlens.model.toys import digits_of

SIGN, FIRST = 10, 7
"""Token of ``+`` (``=`` is the next one), and the position that answers the first digit."""


@pytest.fixture(scope="module")
def model() -> LensModel:
    return load("toy:addition", prove=False)


def asked(a: Tensor, b: Tensor) -> Tensor:
    signs = [torch.full((len(a), 1), sign) for sign in (SIGN, SIGN + 1)]
    return torch.cat(
        [digits_of(a, 3), signs[0], digits_of(b, 3), signs[1], digits_of(a + b, 4)], dim=1
    )


def right(model: LensModel, a: Tensor, b: Tensor, *gone: int) -> Tensor:
    """``[n, 4]`` bool: which digits are right, with heads of layer 0 set to 0."""
    ids = asked(a, b)
    edits = [ll.edit("z.0", "zero", head=head) for head in gone]
    said = ll.run(model, ids[:, :-1], edits=edits).logits[:, FIRST:].argmax(-1)
    return said == ids[:, FIRST + 1 :]


def drawn(count: int) -> tuple[Tensor, Tensor]:
    pairs = torch.randint(1000, (count, 2), generator=torch.Generator().manual_seed(3))
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize(
    ("head", "seen"),
    [
        # The digit of a, and of b, that stands where the answer's next digit will:
        (2, {8: 0, 9: 1, 10: 2}),
        (3, {8: 4, 9: 5, 10: 6}),
        # The digits one place lower, which say whether there is a carry:
        (0, {8: 1, 9: 2}),
        (1, {8: 5, 9: 6}),
    ],
)
def test_a_head_reads_one_digit(model: LensModel, head: int, seen: dict[int, int]) -> None:
    pattern = ll.record(model, asked(*drawn(100)), sites=["pattern.0"])["pattern.0"][:, head]
    for query, key in seen.items():
        assert float(pattern[:, query, key].mean()) > 0.9


def test_without_an_aligned_digit_the_sum_is_a_guess(model: LensModel) -> None:
    a, b = drawn(400)
    for head in (2, 3):
        assert float(right(model, a, b, head)[:, 1:].float().mean()) < 0.15


def test_it_fails_only_where_every_pair_makes_nine(model: LensModel) -> None:
    """Of a + b = 999 the first digit hangs on a carry that is nowhere to be seen."""
    a = torch.arange(1000)
    nines = right(model, a, 999 - a)
    others = right(model, *drawn(1000))
    failed = [float((~digits.all(1)).double().mean()) for digits in (nines, others)]
    assert 0.01 < failed[0] < 0.05
    assert failed[1] < 0.001
    assert bool(nines[:, 1:].all())  # the digits that follow are right


def test_carries_come_from_the_lower_digits(model: LensModel) -> None:
    """Without the heads that read one place lower, sums with carries fail more than others."""
    a, b = drawn(600)
    lower = (a % 10 + b % 10) >= 10
    tens = right(model, a, b, 0, 1)[:, 2].float()
    assert float(tens[lower].mean()) < 0.7
    assert float(tens[~lower].mean()) > 0.95
