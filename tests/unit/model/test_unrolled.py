"""A model that runs one block again and again has a module for each time, and is the same."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as tf

import layerlens as ll
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import perturb

IDS = [5, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def hf() -> tf.AlbertForMaskedLM:
    torch.manual_seed(0)
    config = tf.AlbertConfig(
        vocab_size=99, embedding_size=16, hidden_size=32, num_hidden_layers=4,
        num_attention_heads=4, intermediate_size=64,
    )  # fmt: skip
    model = tf.AlbertForMaskedLM(config).eval()
    perturb(model)
    return model


@pytest.fixture(scope="module")
def model(hf: tf.AlbertForMaskedLM) -> LensModel:
    return ll.load(hf, name="albert")


def test_each_layer_is_the_state_after_as_many_turns(
    hf: tf.AlbertForMaskedLM, model: LensModel
) -> None:
    with torch.no_grad():
        own = hf(torch.tensor([IDS]), output_hidden_states=True)
    kinds = [f"resid_post.{layer}" for layer in range(4)]
    trace = ll.record(model, IDS, [*kinds, "pattern.2"])
    for layer, kind in enumerate(kinds):
        assert torch.equal(trace[kind].squeeze(), own.hidden_states[layer + 1].squeeze())
    assert trace["pattern.2"].shape[-2:] == (5, 5)
    assert model.proof is not None
    assert model.proof.full


def test_the_weights_are_the_same_and_the_given_model_is_left_as_it_was(
    hf: tf.AlbertForMaskedLM, model: LensModel
) -> None:
    names = [name for name, _ in hf.named_modules()]
    assert "albert.encoder.albert_layer_groups.0.layers" not in names
    ours = {id(parameter) for parameter in model.hf.parameters()}
    assert ours == {id(parameter) for parameter in hf.parameters()}


def test_one_layer_is_taken_out_alone(hf: tf.AlbertForMaskedLM, model: LensModel) -> None:
    """Without the last turn the model is the one with a turn less."""
    fewer = copy.deepcopy(hf)
    fewer.config.num_hidden_layers = 3
    with torch.no_grad():
        wanted = fewer(torch.tensor([IDS])).logits
        last = model.hf.get_submodule(model.anatomy.blocks[3].path)
        handle = last.register_forward_hook(lambda module, given, output: given[0])
        got = model.hf(torch.tensor([IDS])).logits
        handle.remove()
    assert torch.allclose(got, wanted, atol=1e-6)


def test_a_pass_that_was_broken_off_leaves_no_trace(model: LensModel) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    twin = copy.deepcopy(model.hf)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        wanted = model.hf(ids).logits
        block = twin.get_submodule(model.anatomy.blocks[1].path)
        handle = block.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            twin(ids)
        handle.remove()
        assert torch.equal(twin(ids).logits, wanted)
