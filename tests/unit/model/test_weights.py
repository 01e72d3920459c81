"""Weights that are offloaded or quantised: the model runs by itself, so it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import accelerate
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import layerlens as ll
from layerlens.model.tiny import tiny_model
from layerlens.model.weights import input_device, is_dense, require_finite

IDS = [5, 9, 3]
CPU = torch.device("cpu")


def to_memory(hf: PreTrainedModel, folder: Path) -> None:
    accelerate.cpu_offload(hf, execution_device=CPU)


def to_disk(hf: PreTrainedModel, folder: Path) -> None:
    accelerate.disk_offload(hf, folder, execution_device=CPU)


def all_but_a_block(hf: PreTrainedModel, folder: Path) -> None:
    where = {name: "disk" for name, _ in hf.model.named_children() if name != "layers"}
    places = {f"model.{name}": place for name, place in where.items()}
    places |= {f"model.layers.{layer}": "disk" for layer in range(1, len(hf.model.layers))}
    accelerate.dispatch_model(
        hf,
        {**places, "model.layers.0": "cpu", "lm_head": "cpu"},
        main_device=CPU,
        offload_dir=folder,
        force_hooks=True,
    )


@pytest.mark.parametrize("offload", [to_memory, to_disk, all_but_a_block])
def test_an_offloaded_model_is_the_model(
    offload: Callable[[PreTrainedModel, Path], None], tmp_path: Path
) -> None:
    plain = ll.load(tiny_model("llama"))
    hf = tiny_model("llama")
    offload(hf, tmp_path)
    assert hf.get_input_embeddings().weight.is_meta
    model = ll.load(hf)
    assert model.proof.full
    assert model.device == CPU
    edit = ll.edit("z.1.2", "zero")
    assert torch.equal(ll.run(model, IDS, edit).logits, ll.run(plain, IDS, edit).logits)
    result = "result.1"
    assert torch.equal(ll.record(model, IDS, result)[result], ll.record(plain, IDS, result)[result])
    assert model.generate(IDS, 3, edit).new_ids == plain.generate(IDS, 3, edit).new_ids
    for name in ("entropy", "token_id"):
        mine, theirs = (ll.logit_lens(each, IDS).data[name] for each in (model, plain))
        assert torch.allclose(torch.tensor(mine.values), torch.tensor(theirs.values), atol=1e-5)


def test_ids_go_where_the_embedding_is() -> None:
    hf = tiny_model("llama")
    assert input_device(hf) == CPU
    accelerate.cpu_offload(hf, execution_device="cpu")
    assert input_device(hf) == CPU


class Opaque(Tensor):
    """A tensor of a class of its own, which few functions take, as quantised weights are."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Opaque:
        made: Opaque = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner  # type: ignore[attr-defined]
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten.detach.default:
            if torch.is_inference_mode_enabled():
                raise RuntimeError("Cannot set version_counter for inference tensor")
            return cls(args[0].inner)
        if func is torch.ops.aten.linear.default:
            return func(args[0], args[1].inner, *args[2:], **(kwargs or {}))
        raise NotImplementedError(f"{func} is not for these weights")


def test_weights_of_a_class_of_their_own_are_used_and_not_looked_at() -> None:
    hf = tiny_model("llama")
    plain = ll.load(tiny_model("llama"))
    for module in hf.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(Opaque(module.weight.detach()), requires_grad=False)
    assert not is_dense(hf.model.layers[0].mlp.up_proj.weight)
    require_finite(hf)
    model = ll.load(hf)
    assert model.proof.full
    assert model.head_matrix() is None
    got, expected = (ll.record(each, IDS, "z.2")["z.2"] for each in (model, plain))
    assert torch.allclose(got, expected, atol=1e-6)
    lens = ll.logit_lens(model, IDS)
    assert lens.checks.ok
    with pytest.raises(ll.InputError, match=r"self_attn\.q_proj of layer 0 is quantised"):
        ll.layer_metrics(model, [IDS], ["weight_norm"])


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_torch_s_own_eight_bits() -> None:
    hf = torch.ao.quantization.quantize_dynamic(tiny_model("llama"), {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        own = hf(torch.tensor([IDS])).logits
    model = ll.load(hf)
    assert torch.equal(ll.record(model, IDS, "resid_post.2").logits, own)
    # It rounds what it is given, together for all rows, so heads' writes do not add up.
    assert model.proof.notes == ["the attention does not end in one linear projection: no z"]
    with pytest.raises(ll.SiteError, match="does not end in one linear projection"):
        ll.record(model, IDS, "z.1")
    assert ll.record(model, IDS, "pattern.1")["pattern.1"].shape == (1, 4, 3, 3)
