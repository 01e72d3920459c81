"""Mode connectivity against state dicts that were mixed by hand, and against known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.grafting import connectivity_run
from layerlens.analyses.grafting.connectivity_run import PARTS, WAYS, ConnectivityRun
from layerlens.errors import Cancelled, InputError
from layerlens.run.between import between, pairs_of

from .. import by_hooks
from ..copies import copy_of
from .test_layer_swap import TEXTS, logits, pair

SHARES = (0.0, 0.5, 1.0)


def loss(hf: Any) -> float:
    """Mean loss over the tokens that count."""
    found = []
    for ids in TEXTS:
        logarithms = logits(hf, ids).log_softmax(-1)[1:-1]
        found.append(-logarithms.gather(1, torch.tensor(ids[2:])[:, None])[:, 0])
    return float(torch.cat(found).mean())


def mixed(base: Any, one: Any, two: Any, share: float, chosen: Any) -> Any:
    """A copy of ``base`` in which chosen weights lie between those of two models."""
    numbers = {name: weight.clone() for name, weight in base.state_dict().items()}
    for name in numbers:
        if chosen(name):
            numbers[name] = (1 - share) * one.state_dict()[name] + share * two.state_dict()[name]
    shell = copy_of(by_hooks.wrapped(base.config.model_type)).hf
    shell.load_state_dict(numbers)
    return shell


def barrier(losses: list[float]) -> float:
    line = [(1 - a) * losses[0] + a * losses[-1] for a in SHARES]
    return max(one - two for one, two in zip(losses, line, strict=True))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_loss_is_that_of_a_mixed_state_dict(family: str) -> None:
    model, other = pair(family)
    found = ll.mode_connectivity(model, TEXTS, other=other, points=3)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    data, a, b = found.data, model.hf, other.hf
    inner = {"gpt2": "transformer.h", "llama": "model.layers"}[family]
    for layer in (1,):
        for way, base, upto in (("own", a, False), ("other", b, False), ("cumulative", a, True)):
            places = range(layer + 1) if upto else [layer]
            names = tuple(f"{inner}.{place}." for place in places)
            wanted = [
                loss(mixed(base, a, b, s, lambda n, o=names: n.startswith(o))) for s in SHARES
            ]
            here = data.sel(layer=layer, mixed=WAYS[way])
            assert here.layer_loss.values.tolist() == pytest.approx(wanted, abs=1e-5)
            assert float(here.barrier) == pytest.approx(barrier(wanted), abs=1e-5)
            line = [(1 - s) * loss(a) + s * loss(b) for s in SHARES]
            rise = max(one - two for one, two in zip(wanted, line, strict=True))
            assert float(here.rise) == pytest.approx(rise, abs=1e-5)
    parts = {
        "all": lambda name: True,
        "mlp": lambda name: ".mlp." in name,
        "attention": lambda name: ".attn." in name or ".self_attn." in name,
        "norms": lambda name: "ln_" in name or "norm" in name,
        "ends": lambda name: (
            not name.startswith(inner) and "norm" not in name and "ln_" not in name
        ),
    }
    for name, chosen in parts.items():
        wanted = [loss(mixed(a, a, b, share, chosen)) for share in SHARES]
        assert data.part_loss.sel(part=PARTS[name][0]).values.tolist() == pytest.approx(
            wanted, abs=1e-5
        ), name


def test_between_a_model_and_itself_all_is_flat() -> None:
    model = by_hooks.wrapped("gpt2")
    data = ll.mode_connectivity(model, TEXTS, other=copy_of(model), points=3).data
    assert np.abs(data.barrier.values).max() < 1e-6 and np.abs(data.rise.values).max() < 1e-6
    assert np.abs(data.part_barrier.values).max() < 1e-6


def test_where_the_loss_is_convex_there_is_no_barrier() -> None:
    """The loss is convex in the head alone; in the attention of a model it need not be."""
    model = ll.load("toy:induction")
    other = copy_of(model)
    head: Any = other.hf.get_output_embeddings()
    torch.manual_seed(0)
    with torch.no_grad():
        head.weight.copy_(head.weight[torch.randperm(len(head.weight))])
    texts = [[60, 5, 9, 1, 3, 7, 5, 9, 1, 3, 7]]
    found = ll.mode_connectivity(model, texts, other=other, points=5).data
    losses = found.part_loss.sel(part="embedding and head").values
    assert (losses[:-2] - 2 * losses[1:-1] + losses[2:] > 0).all()
    assert float(found.part_barrier.sel(part="embedding and head")) < 1e-6
    # Queries and keys of the other sign are the same function, but halfway they are 0.
    turned = copy_of(model)
    block = by_hooks.blocks(turned.hf)[1].self_attn
    with torch.no_grad():
        block.q_proj.weight.neg_()
        block.k_proj.weight.neg_()
    same = ll.mode_connectivity(model, texts, other=turned, points=5, skip_first=6).data
    assert float(same.other_loss) == pytest.approx(float(same.loss), abs=1e-4)
    assert float(same.barrier.sel(layer=1, mixed="in this model")) > 0.1
    assert float(same.barrier.sel(layer=0, mixed="in this model")) < 1e-6


def test_a_random_way_is_as_long_as_the_way_to_the_other() -> None:
    model, other = pair("llama")
    pairs = pairs_of(model, other)
    own = [one.own.detach().clone() for one in pairs]
    lengths = []
    for seed in (None, 4):
        with between(pairs, 1.0, seed):
            ways = [one.own - was for one, was in zip(pairs, own, strict=True)]
            lengths.append(torch.stack([way.detach().norm() for way in ways]))
    torch.testing.assert_close(*lengths, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(one.own, was) for one, was in zip(pairs, own, strict=True))


def test_weights_are_back_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = pair("gpt2")
    both = [*model.hf.parameters(), *other.hf.parameters()]
    before = [(weight.data_ptr(), weight.detach().clone()) for weight in both]
    moved: list[int] = []

    def stop(self: ConnectivityRun, *_: Any) -> None:
        moved.append(sum(w.data_ptr() != at for w, (at, _) in zip(both, before, strict=True)))
        if moved[-1]:
            raise Cancelled("The analysis was stopped.")

    monkeypatch.setattr(connectivity_run.ConnectivityRun, "_other_loss", stop_in(stop))
    with pytest.raises(Cancelled):
        ll.mode_connectivity(model, TEXTS, other=other, points=3)
    assert moved[-1] > 0
    for weight, (place, numbers) in zip(both, before, strict=True):
        assert weight.data_ptr() == place and torch.equal(weight, numbers)


def stop_in(first: Any) -> Any:
    """The loss of the other model, after a look that may stop it."""
    own = ConnectivityRun._other_loss

    def looked(self: ConnectivityRun, *given: Any) -> Any:
        first(self, *given)
        return own(self, *given)

    return looked


def test_what_does_not_fit_is_refused() -> None:
    model, other = pair("gpt2")
    with pytest.raises(InputError, match="points is 2"):
        ll.mode_connectivity(model, TEXTS, other=other, points=2)
    twice = by_hooks.blocks(other.hf)
    twice[1].mlp.c_fc.weight = twice[0].mlp.c_fc.weight
    with pytest.raises(InputError, match="one weight in several blocks"):
        ll.mode_connectivity(model, TEXTS, other=other)
