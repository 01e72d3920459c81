"""The head kernel against values that are known without it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from layerlens.errors import LayerLensError, MemoryLimitError
from layerlens.run import head_rows as kernel
from layerlens.run.head_rows import BLOCK, Head, top_k_by_blocks


def head_of(weight: Tensor, **options: Any) -> Head:
    fields = {"bias": None, "scale": 1.0, "softcap": None, "widens": True, **options}
    return Head(SimpleNamespace(weight=weight, **fields), lambda x: x, len(weight))  # type: ignore[arg-type]


def reduce_logits(logits: Tensor, chosen: Tensor, k: int) -> kernel.Reduced:
    """Send known logits [R, V] through the kernel: the rows are unit vectors."""
    head = head_of(logits.t().contiguous())
    return head.reduce(torch.eye(len(logits), dtype=logits.dtype), chosen, k)


def padded(logits: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = logits.shape
    width = -(-columns // BLOCK) * BLOCK
    full = torch.full((rows, width), -1e30)
    full[:, :columns] = logits
    return full, full.view(rows, -1, BLOCK).amax(-1)


def none(rows: int) -> Tensor:
    return torch.empty((rows, 0), dtype=torch.int64)


def test_uniform_logits_have_entropy_ln_v() -> None:
    got = reduce_logits(torch.full((2, 300), 7.0), torch.tensor([[3], [299]]), 4)
    assert got.entropy.tolist() == pytest.approx([math.log(300)] * 2, abs=1e-5)
    assert got.log_norm.tolist() == pytest.approx([7 + math.log(300)] * 2, abs=1e-5)
    assert got.above.tolist() == [[0], [0]], "ties do not count against a token"


def test_two_tokens_with_probabilities_three_quarters_and_one() -> None:
    logits = torch.full((1, 200), -math.inf)
    logits[0, 150], logits[0, 10] = math.log(3.0), 0.0
    got = reduce_logits(logits, torch.tensor([[150, 10, 5]]), 200)
    assert got.top_ids[0, :2].tolist() == [150, 10]
    assert sorted(got.top_ids[0].tolist()) == list(range(200))
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert got.entropy.item() == pytest.approx(expected, abs=1e-6)
    assert got.log_norm.item() == pytest.approx(math.log(4.0), abs=1e-6)
    assert got.above.tolist() == [[0, 1, 2]]


def test_a_certain_answer_has_no_entropy() -> None:
    logits = torch.zeros(1, 140)
    logits[0, 77] = 200.0
    got = reduce_logits(logits, none(1), 1)
    assert got.entropy.item() == 0.0
    assert got.top_ids.item() == 77


def test_ranks_count_larger_logits_only() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 3.0, 2.0]])
    got = reduce_logits(logits, torch.tensor([[1, 2, 3, 4, 0]]), 2)
    assert got.above.tolist() == [[0, 0, 2, 3, 4]]


@pytest.mark.parametrize("columns", [5, 127, 128, 129, 300, 1000])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_by_blocks_equals_topk_on_random_rows(columns: int, k: int) -> None:
    torch.manual_seed(columns + k)
    logits = torch.randn(17, columns)
    values, ids = top_k_by_blocks(*padded(logits), k)
    expected = torch.topk(logits, k)
    assert torch.equal(values, expected.values)
    assert torch.equal(ids, expected.indices)


def adversarial() -> dict[str, Tensor]:
    torch.manual_seed(1)
    one_block = torch.zeros(3, 900)
    one_block[:, 256:384] = torch.randn(3, 128) + 50
    boundaries = torch.zeros(3, 900)
    boundaries[:, [0, 127, 128, 255, 256, 899]] = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    suppressed = torch.randn(3, 900)
    suppressed[:, 100:] = -math.inf
    return {
        "equal": torch.full((3, 900), -2.5),
        "few values": torch.randint(0, 3, (3, 900)).float(),
        "one block": one_block,
        "boundaries": boundaries,
        "suppressed": suppressed,
        "ascending": torch.arange(900.0).repeat(3, 1),
    }


@pytest.mark.parametrize("name", list(adversarial()))
@pytest.mark.parametrize("k", [1, 6, 8, 20, 900])
def test_top_k_by_blocks_is_exact_on_adversarial_rows(name: str, k: int) -> None:
    logits = adversarial()[name]
    values, ids = top_k_by_blocks(*padded(logits), k)
    finite = torch.topk(logits, k).values.clamp_min(-1e30)
    assert torch.equal(values.clamp_min(-1e30), finite)
    real = values > -1e30
    assert torch.equal(logits.gather(1, ids.clamp_max(899))[real], values[real])
    assert all(len(set(row.tolist())) == k for row in ids), "no column twice"


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("with_bias", [False, True])
def test_bias_scale_and_cap_come_in_the_order_of_the_contract(
    softcap: float | None, scale: float, with_bias: bool
) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(333, 8), torch.randn(9, 8)
    bias = torch.randn(333) if with_bias else None
    head = head_of(weight, bias=bias, scale=scale, softcap=softcap)
    expected = x.double() @ weight.double().t()
    expected = (expected if bias is None else expected + bias) * scale
    if softcap:
        expected = softcap * torch.tanh(expected / softcap)
    assert torch.allclose(head.logits(x).double(), expected, atol=1e-5)
    logprobs = expected.log_softmax(-1)
    got = head.reduce(x, torch.arange(9).unsqueeze(1), 10)
    assert torch.allclose(got.entropy.double(), -(logprobs.exp() * logprobs).sum(-1), atol=1e-5)
    assert torch.allclose(got.log_norm.double(), expected.logsumexp(-1), atol=1e-5)
    assert torch.equal(got.top_ids, expected.topk(10).indices)


def test_every_chunking_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(400, 16), torch.randn(75, 16)
    chosen = torch.randint(0, 400, (75, 3))
    whole = head_of(weight).reduce(x, chosen, 7)
    monkeypatch.setattr(kernel, "PRODUCT_ROWS", 20)
    monkeypatch.setattr(kernel, "STATISTICS_ROWS", 8)
    head = head_of(weight)
    assert (head.rows, head.block_rows) == (20, 8)
    pieces = head.reduce(x, chosen, 7)
    assert torch.equal(whole.top_ids, pieces.top_ids)
    assert torch.equal(whole.above, pieces.above)
    assert torch.allclose(whole.entropy, pieces.entropy, atol=1e-5)


def test_a_call_reads_the_head_once_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "PRODUCT_ROWS", 32)
    head = head_of(torch.randn(150, 4))
    ticks = []
    head.reduce(torch.randn(100, 4), none(100), 1, lambda: ticks.append(1))
    assert len(ticks) == 4


def test_half_precision_heads_are_reduced_in_single() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(200, 8).bfloat16(), torch.randn(5, 8).bfloat16()
    head = head_of(weight)
    logits = (x @ weight.t()).float()
    got = head.reduce(x, none(5), 3)
    assert got.entropy.dtype == torch.float32
    assert torch.allclose(got.log_norm, logits.logsumexp(-1), atol=1e-5)
    assert not head.linear


def test_a_head_that_is_no_matrix_is_called() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(200, 8), torch.randn(5, 8)
    head = Head(None, lambda rows: torch.tanh(0.1 * rows @ weight.t()), 200)
    got = head.reduce(x, none(5), 3)
    assert torch.equal(got.top_ids, (x @ weight.t()).topk(3).indices)


def test_final_rows_bring_the_mean_weight_row_and_whole_logits() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(210, 8), torch.randn(210), torch.randn(40, 8)
    _, final = head_of(weight, bias=bias).reduce_final(x, none(40), 1, keep=[3, 39])
    logits = x @ weight.t() + bias
    p = logits.softmax(-1)
    assert final.mean_weight is not None
    assert final.mean_bias is not None
    assert torch.allclose(final.mean_weight, p @ weight, atol=1e-5)
    assert torch.allclose(final.mean_bias, p @ bias, atol=1e-5)
    assert torch.allclose(torch.stack(final.kept), logits[[3, 39]], atol=1e-5)


def test_how_far_log_probabilities_spread_under_their_own_distribution() -> None:
    """Of two tokens, a apart, p(1 - p) a² is the variance; of what is suppressed nothing counts."""
    weight = torch.zeros(140, 1)
    weight[0] = 1
    bias = torch.full((140,), -torch.inf)
    bias[:2] = 0
    apart = torch.tensor([[0.0], [2.0], [-3.0], [9.0]])
    _, final = head_of(weight, bias=bias).reduce_final(apart, none(4), 1)
    p = apart.flatten().sigmoid()
    expected = apart.flatten().abs() * (p * (1 - p)).sqrt()
    assert torch.allclose(final.spread, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_logits_are_an_error(bad: float) -> None:
    weight = torch.zeros(150, 2)
    weight[149, 0] = bad
    with pytest.raises(LayerLensError, match="NaN or infinite"):
        head_of(weight).reduce(torch.ones(3, 2), none(3), 1)


def test_a_limit_below_eight_rows_says_what_it_needs() -> None:
    weight = torch.zeros(50_000, 2)
    matrix = SimpleNamespace(weight=weight, bias=None, scale=1.0, softcap=None, widens=True)
    with pytest.raises(MemoryLimitError, match=r"3\.2 MB .* leaves 1 MB"):
        Head(matrix, lambda x: x, 50_000, memory=1_000_000)  # type: ignore[arg-type]


def test_large_vocabularies_stay_exact_in_single_precision() -> None:
    torch.manual_seed(0)
    logits = 30 + 3 * torch.randn(4, 60_000)
    got = reduce_logits(logits, none(4), 1)
    logp = logits.double().log_softmax(-1)
    assert torch.allclose(got.entropy.double(), -(logp.exp() * logp).sum(-1), atol=3e-5)
    assert torch.allclose(got.log_norm.double(), logits.double().logsumexp(-1), atol=1e-5)


@pytest.mark.parametrize("final", [False, True])
def test_nothing_as_large_as_a_block_of_logits_is_made_on_the_way(final: bool) -> None:
    """Or it leaves holes in the heap between the results that are kept, one for each block."""
    head = head_of(torch.randn(6000, 4, generator=torch.Generator().manual_seed(0)))
    x = torch.ones(100, 4)
    work = head.reduce_final if final else head.reduce
    work(x, torch.zeros(100, 1, dtype=torch.int64), 3)  # makes the buffers
    with torch.profiler.profile(profile_memory=True) as seen:
        work(x, torch.zeros(100, 1, dtype=torch.int64), 3)
    largest = max(event.cpu_memory_usage for event in seen.events())
    assert 0 < largest < head.block_rows * head.width
