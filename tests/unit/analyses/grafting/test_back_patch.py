"""Back-patching against plain hooks, and on a model whose hops stand in the wrong order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerlens.analyses.grafting.back_patch import back_patch
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from ..conftest import build
from ..two_hop import FIRST, SECOND, two_hop_model

IDS = [5, 17, 200, 3, 90, 41]
OTHER = [7, 8, 100, 9]


def blocks(model: LensModel) -> nn.ModuleList:
    hf: Any = model.hf
    return hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers


def states(model: LensModel, ids: list[int], position: int) -> list[Tensor]:
    """Outputs of every block at one position, by plain hooks."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output)[0, position].clone())

    handles = [block.register_forward_hook(keep) for block in blocks(model)]
    with torch.no_grad():
        model.hf(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return kept


def patched(model: LensModel, ids: list[int], block: int, position: int, state: Tensor) -> Tensor:
    """Last logits of one run with one block's output overwritten, by a plain hook."""

    def put(module: nn.Module, args: Any, output: Any) -> Any:
        value = (output[0] if isinstance(output, tuple) else output).clone()
        value[0, position] = state
        return (value, *output[1:]) if isinstance(output, tuple) else value

    handle = blocks(model)[block].register_forward_hook(put)
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0, -1]
    handle.remove()
    return logits


def by_hand(
    model: LensModel, ids: list[int], source: int, into: list[int], target: int
) -> np.ndarray:
    """Last logits [source, target, V] of every pair."""
    given = states(model, ids, source)
    return np.array(
        [
            [patched(model, into, t, target, state).numpy() for t in range(len(given))]
            for state in given
        ]
    )


def logprob(logits: np.ndarray, token: int) -> np.ndarray:
    return torch.from_numpy(logits).double().log_softmax(-1)[..., token].numpy()


@pytest.mark.parametrize(("source", "target"), [(-1, None), (2, None), (1, 4)])
def test_every_pair_equals_one_plain_run(model: LensModel, source: int, target: int | None) -> None:
    data = back_patch(model, IDS, source=source, target=target, answer=7, pairs="all").data
    logits = by_hand(model, IDS, source, IDS, source if target is None else target)
    np.testing.assert_allclose(data.metric, logprob(logits, 7), atol=1e-4)
    assert (data.token_id.values == logits.argmax(-1)).all()
    ranks = (logits > logits[..., [7]]).sum(-1) + 1
    assert (data["rank"].values == ranks).all()
    counted = np.tri(3, 3, -1, dtype=bool)
    expected = np.where(counted, logits.argmax(-1) == 7, -1)
    assert (data.success.values == expected).all()


def test_a_state_goes_into_another_text(model: LensModel) -> None:
    result = back_patch(model, IDS, source=2, into=OTHER, target=1, answer=7)
    logits = by_hand(model, IDS, 2, OTHER, 1)
    np.testing.assert_allclose(result.data.metric, logprob(logits, 7), atol=1e-4)
    assert (result.data.success.values == (logits.argmax(-1) == 7)).all()
    last = back_patch(model, IDS, source=2, into=OTHER, answer=7).data
    expected = logprob(by_hand(model, IDS, 2, OTHER, -1), 7)
    np.testing.assert_allclose(last.metric, expected, atol=1e-4)


def test_two_hops_in_the_wrong_order_meet_only_when_patched_back() -> None:
    model = two_hop_model({4: 6, 5: 7}, {6: 9, 7: 10})
    for token, answer in ((4, 9), (5, 10)):
        result = back_patch(model, [1, token], answer=answer, pairs="all")
        data = result.data
        assert int(data.base_rank) > 1, "by itself the model fails"
        right = data.token_id.values == answer
        expected = np.zeros((4, 4), dtype=bool)
        expected[FIRST, SECOND - 1] = True
        assert (right == expected).all()
        assert (data.success.values == 1).sum() == 1
        assert data.attrs["successful_pairs"] == "[1]"
        # Some pair always does it, one drawn at random seldom.
        assert data.attrs["any_pair_success"] == 1
        assert data.attrs["random_pair_success"] == 1 / data.attrs["counted_pairs"] == 1 / 6
        assert result.checks.ok


def test_the_answer_may_come_in_what_is_generated() -> None:
    model = two_hop_model({4: 6}, {6: 9})
    data = back_patch(model, [1, 4], answer=9, generate=2, aliases=["[9]"]).data
    assert data.success.sel(source=FIRST, target=SECOND - 1) == 1
    assert (data.success.values == 1).sum() == 1
    assert int(data.generated.sel(source=FIRST, target=SECOND - 1)[0]) == 9
    assert (data.generated.sel(source=0).values == -1).all(), "these pairs do not count"
    assert data.attrs["complete"]


def test_generation_keeps_the_state_where_it_was_put(model: LensModel) -> None:
    """Greedy, by hand: the whole text again at each step, the hook at the prompt's position."""
    data = back_patch(model, IDS, source=3, answer=7, generate=3, layers=[0, 2]).data
    state = states(model, IDS, 3)[2]
    ids = list(IDS)
    for _ in range(3):
        ids.append(int(patched(model, ids, 0, 3, state).argmax()))
    written = data.generated.sel(source=2, target=0).values
    expected = np.array(ids[len(IDS) :])
    until = written[written >= 0]
    assert (until == expected[: len(until)]).all()
    assert len(until) == 3 or until[-1] == model.hf.config.eos_token_id


def test_putting_a_state_back_where_it_was_changes_nothing(model: LensModel) -> None:
    result = back_patch(model, IDS, source=2)
    same = np.diagonal(result.data.change)
    np.testing.assert_allclose(same, 0, atol=1e-5)
    checks = {check.name: check for check in result.checks}
    assert checks["s = t changes nothing"].ok
    assert checks["cells equal the naive run"].ok
    itself = back_patch(model, IDS, source=2, into=IDS, target=2).data
    np.testing.assert_allclose(np.diagonal(itself.change), 0, atol=1e-5)


def test_only_pairs_back_are_run_and_counted(model: LensModel) -> None:
    data = back_patch(model, IDS, answer=7).data
    forward = ~np.tri(3, 3, 0, dtype=bool)
    assert np.isnan(data.metric.values[forward]).all()
    assert (data.token_id.values[forward] == -1).all()
    assert (data.success.values[~np.tri(3, 3, -1, dtype=bool)] == -1).all()
    assert data.attrs["counted_pairs"] == 3
    assert data.attrs["complete"]


def test_several_texts_and_chosen_layers(model: LensModel) -> None:
    both = back_patch(model, [IDS, OTHER], source=[2, -1], answer=[7, 9], layers=[0, -1]).data
    assert both.source.values.tolist() == [0, 2]
    for row, (ids, source, answer) in enumerate(((IDS, 2, 7), (OTHER, -1, 9))):
        one = back_patch(model, ids, source=source, answer=answer).data.sel(
            source=[0, 2], target=[0, 2]
        )
        np.testing.assert_allclose(both.metric[row], one.metric, atol=1e-5)
        assert (both.success[row].values == one.success.values).all()
    rate = (both.success.values[:, 1, 0] == 1).mean()
    assert float(both.success_rate[1, 0]) == pytest.approx(rate)
    assert both.success_rate.isnull().sum() == 3


def test_the_answer_is_the_model_s_own_unless_given(model: LensModel) -> None:
    data = back_patch(model, IDS, metric="logit_diff").data
    with torch.no_grad():
        logits = model.hf(torch.tensor([IDS])).logits[0, -1]
    best = logits.topk(2)
    assert int(data.answer_id) == int(best.indices[0])
    assert int(data.base_rank) == 1
    assert float(data.base_metric) == pytest.approx(
        float(best.values[0] - best.values[1]), abs=1e-4
    )
    assert data.metric.attrs["units"] == "logit"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "forth"}, "Valid are back, all"),
        ({"layers": [7]}, "Layer 7 does not exist"),
        ({"layers": []}, "layers is empty"),
        ({"source": 40}, "Position 40"),
        ({"answer": [1, 2]}, "2 entries for 1 text:"),
        ({"metric": "logits"}, "did you mean 'logit'"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        back_patch(build("gpt2"), IDS, **options)
