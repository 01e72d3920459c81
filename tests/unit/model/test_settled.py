"""Models that were compiled or prepared for training are read as the plain modules they hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import layerlens as ll
from layerlens.model.settled import settled
from layerlens.model.tiny import tiny_model

IDS = [5, 9, 3]


def compile_in_place(hf: PreTrainedModel) -> nn.Module:
    hf.compile(backend="eager")
    return hf


def compile_around(hf: PreTrainedModel) -> nn.Module:
    return torch.compile(hf, backend="eager")


def compile_blocks_in_place(hf: PreTrainedModel) -> nn.Module:
    for layer in hf.model.layers:
        layer.compile(backend="eager")
    return hf


def compile_around_blocks(hf: PreTrainedModel) -> nn.Module:
    for index, layer in enumerate(hf.model.layers):
        hf.model.layers[index] = torch.compile(layer, backend="eager")
    return hf


COMPILED = [compile_in_place, compile_around, compile_blocks_in_place, compile_around_blocks]


@pytest.mark.parametrize("compiled", COMPILED)
def test_a_compiled_model_is_read_and_edited_as_its_plain_modules(
    compiled: Callable[[PreTrainedModel], nn.Module],
) -> None:
    plain = ll.load(tiny_model("llama"))
    hf = compiled(tiny_model("llama"))
    ids = torch.tensor([IDS])
    with torch.no_grad():
        before = hf(ids).logits  # what the compiler keeps of this call must not be used
    model = ll.load(hf)
    assert model.proof.full
    for site in ("z.1", "pattern.0", "resid_mid.2", "mlp_post.1"):
        assert torch.equal(ll.record(model, IDS, site)[site], ll.record(plain, IDS, site)[site])
    edit = ll.edit("mlp_out.1", "zero")
    assert torch.equal(ll.run(model, IDS, edit).logits, ll.run(plain, IDS, edit).logits)
    with torch.no_grad():
        assert torch.equal(hf(ids).logits, before)


def test_what_was_compiled_stays_so() -> None:
    hf = tiny_model("llama")
    seen: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        def ran(*args: object) -> object:
            seen.append(1)
            return graph.forward(*args)

        return ran

    hf.compile(backend=backend)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        hf(ids)
        by_itself = len(seen)
        with settled(hf):
            hf(ids)
        assert len(seen) == by_itself > 0
        hf(ids)
    assert len(seen) > by_itself


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("prepare", ["gradient_checkpointing_enable", "enable_input_require_grads"])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_a_model_prepared_for_training_is_read_without_gradients(prepare: str, family: str) -> None:
    hf = tiny_model(family)
    getattr(hf, prepare)()
    hf.train()
    model = ll.load(hf)
    trace = ll.record(model, IDS, ["embed", "resid_pre.0", "resid_post"])
    assert not any(trace[name].requires_grad for name in ("embed", "resid_pre.0", "resid_post.1"))
    assert model.generate(IDS, 2).new_ids
    assert hf.training
    hf(torch.tensor([IDS])).logits.sum().backward()
    assert hf.get_input_embeddings().weight.grad is not None
