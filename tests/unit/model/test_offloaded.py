"""Weights that are kept elsewhere are read when they are wanted, and held no longer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import accelerate
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import layerlens as ll
from layerlens.model.lensmodel import LensModel
from layerlens.model.offloaded import brought, offload_hooks
from layerlens.model.tiny import tiny_model

IDS = torch.tensor([[5, 9, 3]])


class Watched(Mapping[str, Tensor]):
    """Where weights are kept: hands over a copy each time, and knows which are still in memory."""

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        self.kept, self.given = kept, list[StorageWeakRef]()

    def __getitem__(self, name: str) -> Tensor:
        copied = self.kept[name].clone()
        self.given.append(StorageWeakRef(copied.untyped_storage()))
        return copied

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __contains__(self, name: object) -> bool:
        return name in self.kept


def watch(model: LensModel) -> list[Watched]:
    found = []
    for part in model.hf.modules():
        for hook in offload_hooks(part):
            hook.weights_map = Watched(hook.weights_map)
            found.append(hook.weights_map)
    return found


def alive(watched: list[Watched]) -> int:
    return sum(not ref.expired() for one in watched for ref in one.given)


@pytest.fixture
def offloaded(tmp_path: Path) -> LensModel:
    hf = tiny_model("llama")
    accelerate.disk_offload(hf, tmp_path, execution_device=torch.device("cpu"))
    return LensModel.wrap(hf, prove=False)


def test_a_graph_holds_no_weight_and_gradients_are_the_model_s(offloaded: LensModel) -> None:
    plain = LensModel.wrap(tiny_model("llama"), prove=False)
    found = []
    watched = watch(offloaded)
    for model in (plain, offloaded):
        with model.running(gradients=True):
            state = model.hf.get_input_embeddings()(IDS).detach().requires_grad_()
            loss = model.hf(inputs_embeds=state).logits.square().mean()
            held = alive(watched)
            read = sum(len(one.given) for one in watched)
            found.append(torch.autograd.grad(loss, state)[0])
    assert held == 0
    assert sum(len(one.given) for one in watched) > read
    assert torch.allclose(*found, rtol=1e-5, atol=1e-7)


def test_present_weights_stay_and_are_let_go(offloaded: LensModel) -> None:
    watched = watch(offloaded)
    block = offloaded.hf.get_submodule(offloaded.anatomy.blocks[0].path)
    own = {name: brought(block, name) for name, _ in block.named_parameters()}
    with offloaded.present([0]):
        assert all(torch.equal(p, own[name]) for name, p in block.named_parameters())
        own.clear()
        before = alive(watched)
        with offloaded.running():
            offloaded.hf(IDS)
        assert alive(watched) == before > 0
    assert alive(watched) == 0
    assert all(p.is_meta for p in block.parameters())


def test_a_model_s_logits_are_as_before_afterwards(offloaded: LensModel) -> None:
    with torch.inference_mode():
        before = offloaded.hf(IDS).logits
        ll.gradient_norms(offloaded, [5, 9, 3, 4], verify=1)
        assert torch.equal(offloaded.hf(IDS).logits, before)
