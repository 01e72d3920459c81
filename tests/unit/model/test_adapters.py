"""Adapted layers: heads are kept, weights are those in effect, what is no layer is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import layerlens as ll
from layerlens.metrics.projections import embeddings, projections
from layerlens.model.matrices import matrices
from layerlens.model.tiny import tiny_model

IDS = [5, 9, 3, 7]
PLAIN = ["q", "k", "v", "o", "gate", "up", "down"]


def lora(**options: Any) -> peft.LoraConfig:
    known = {"r": 2, "target_modules": "all-linear", "init_lora_weights": False}
    return peft.LoraConfig(**{**known, **options})


def tuned(config: peft.PeftConfig, family: str = "llama") -> peft.PeftModel:
    torch.manual_seed(0)
    return peft.get_peft_model(tiny_model(family), config)


def weight(model: ll.LensModel, name: str, layer: int = 1) -> Tensor:
    found = next(part for part in projections(model, layer) if part.name == name)
    return found.weights[0]


def expected(wrapper: Any, *adapters: str) -> Tensor:
    """W + sum of scaling * B A, by the formula."""
    found = wrapper.base_layer.weight.detach()
    found = found.T if wrapper.fan_in_fan_out else found
    for name in adapters:
        a, b = wrapper.lora_A[name].weight, wrapper.lora_B[name].weight
        found = found + wrapper.scaling[name] * (b @ a).detach()
    return found


def test_the_weight_of_a_layer_with_lora_is_w_plus_ba() -> None:
    hf = tuned(lora(lora_alpha=3))
    model = ll.load(hf)
    assert model.proof.full
    assert [part.name for part in projections(model, 0)] == PLAIN
    layer = model.hf.model.layers[1]
    for name, wrapper in (("o", layer.self_attn.o_proj), ("down", layer.mlp.down_proj)):
        assert torch.allclose(weight(model, name), expected(wrapper, "default"), atol=1e-6)
    norms = ll.layer_metrics(model, [IDS], ["weight_norm"]).data["weight_norm"]
    found = float(norms.sel(layer=1, projection="o"))
    assert found == pytest.approx(float(expected(layer.self_attn.o_proj, "default").norm()))


def test_it_follows_what_is_active_merged_or_switched_off() -> None:
    hf = tuned(lora(target_modules=["o_proj"], lora_dropout=0.5))
    hf.add_adapter("second", lora(target_modules=["o_proj"], r=3))
    model = ll.load(hf.train())
    wrapper = model.hf.model.layers[1].self_attn.o_proj
    base = wrapper.base_layer.weight.detach().clone()
    hf.base_model.set_adapter(["default", "second"])
    both = expected(wrapper, "default", "second")
    assert torch.allclose(weight(model, "o"), both, atol=1e-6)
    with hf.disable_adapter():
        assert torch.equal(weight(model, "o"), base)
    hf.base_model.set_adapter("second")
    second = expected(wrapper, "second")
    hf.base_model.merge_adapter()
    assert torch.allclose(weight(model, "o"), second, atol=1e-6)
    assert wrapper.training


@pytest.mark.parametrize(
    "config",
    [
        lora(use_dora=True),
        lora(target_modules=["o_proj"], lora_bias=False, use_rslora=True),
        peft.VeraConfig(r=2, target_modules=["q_proj", "o_proj"], init_weights=False),
        peft.LoHaConfig(r=2, target_modules=["o_proj", "down_proj"], init_weights=False),
        peft.OFTConfig(r=0, oft_block_size=8, target_modules=["o_proj"], init_weights=False),
        peft.IA3Config(
            target_modules=["v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            init_ia3_weights=False,
        ),
    ],
    ids=["dora", "rslora", "vera", "loha", "oft", "ia3"],
)
def test_any_adapter_of_layers_keeps_heads_and_has_the_merged_weights(
    config: peft.PeftConfig,
) -> None:
    hf = tuned(config)
    model = ll.load(hf)
    assert model.proof.full
    found = [part.weights[0] for part in projections(model, 1)]
    z = ll.record(model, IDS, "z.1")["z.1"]
    merged = ll.load(hf.merge_and_unload())
    expected = [part.weights[0] for part in projections(merged, 1)]
    assert [part.name for part in projections(merged, 1)] == PLAIN
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert torch.allclose(ll.record(merged, IDS, "z.1")["z.1"], z, atol=1e-5)


def test_heads_write_what_the_adapted_projection_gives() -> None:
    model = ll.load(tuned(lora(target_modules=["o_proj"])))
    trace = ll.record(model, IDS, ["z.1", "result.1", "attn_out.1"])
    assert torch.allclose(trace["result.1"].sum(2), trace["attn_out.1"], atol=1e-5)
    wrapper = model.hf.model.layers[1].self_attn.o_proj
    effective = expected(wrapper, "default").unflatten(1, (4, -1))
    writes = torch.einsum("bphd,nhd->bphn", trace["z.1"], effective)
    assert torch.allclose(trace["result.1"], writes, atol=1e-5)
    shares = ll.direct_logit_attribution(model, IDS, answer=8, unit="head")
    assert shares.checks.ok


def test_fused_and_turned_matrices() -> None:
    model = ll.load(tuned(lora(fan_in_fan_out=True), "gpt2"))
    assert [part.name for part in projections(model, 0)] == ["q", "k", "v", "o", "up", "down"]
    wrapper = model.hf.transformer.h[1].attn.c_attn
    whole = torch.cat([weight(model, name) for name in "qkv"])
    assert torch.allclose(whole, expected(wrapper, "default"), atol=1e-6)


def test_adapted_embedding_and_head() -> None:
    hf = tuned(lora(target_modules=["embed_tokens", "lm_head"]))
    model = ll.load(hf)
    assert model.proof.full
    assert model.d_vocab == tiny_model("llama").config.vocab_size
    found = embeddings(model)
    merged = embeddings(ll.load(hf.merge_and_unload()))
    assert found.keys() == merged.keys() == {"embed", "unembed"}
    assert all(torch.allclose(found[name], merged[name], atol=1e-6) for name in found)


class ByHand(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


class InTheLayer(nn.Linear):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=False)
        self.weight = base.weight
        self.a = nn.Parameter(torch.randn(2, base.in_features))
        self.b = nn.Parameter(torch.randn(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.a.T @ self.b.T


def by_hand(kind: type[nn.Module]) -> tuple[PreTrainedModel, list[Tensor]]:
    torch.manual_seed(0)
    hf = tiny_model("llama")
    deltas = []
    for layer in hf.model.layers:
        layer.self_attn.o_proj = made = kind(layer.self_attn.o_proj)
        pair = (made.b, made.a) if kind is InTheLayer else (made.up.weight, made.down.weight)
        deltas.append((pair[0] @ pair[1]).detach())
    return hf, deltas


@pytest.mark.parametrize("kind", [ByHand, InTheLayer])
def test_adapters_made_by_hand(kind: type[nn.Module]) -> None:
    hf, deltas = by_hand(kind)
    model = ll.load(hf)
    assert model.proof.full
    base = tiny_model("llama").model.layers[1].self_attn.o_proj.weight
    assert torch.allclose(weight(model, "o"), base + deltas[1], atol=1e-5)
    assert ll.record(model, IDS, "z.1")["z.1"].shape == (1, 4, 4, 8)


def test_an_adapter_that_is_not_affine_has_no_matrix_and_no_z() -> None:
    class Bent(ByHand):
        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + self.up(self.down(x).relu())

    hf, _ = by_hand(Bent)
    model = ll.load(hf)
    assert any("no z" in note for note in model.proof.notes)
    with pytest.raises(ll.InputError, match=r"\(Bent\) does not multiply with one matrix"):
        matrices(model, 0)[3].weight  # noqa: B018


def test_rounding_an_adapted_layer_is_refused() -> None:
    model = ll.load(tuned(lora()))
    with pytest.raises(ll.InputError, match=r"q_proj of layer 0 has an adapter"):
        ll.quantisation_sensitivity(model, IDS, bits=4)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "prompt tuning"),
        (peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "prefix tuning"),
        (
            peft.PromptEncoderConfig(
                num_virtual_tokens=3, task_type="CAUSAL_LM", encoder_hidden_size=16
            ),
            "p tuning",
        ),
        (
            peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM"),
            "adaption prompt",
        ),
        (
            lora(alora_invocation_tokens=[5], target_modules=["q_proj"], task_type="CAUSAL_LM"),
            "activated LoRA",
        ),
    ],
)
def test_adapters_that_are_no_layers_are_refused_by_name(config: Any, said: str) -> None:
    with pytest.raises(ll.ModelError, match=rf"The adapter \({said}\)"):
        ll.load(tuned(config))


def test_an_adapter_that_works_outside_of_its_layers_is_refused() -> None:
    hf = tuned(lora())
    hf.register_forward_hook(lambda module, args, output: [output.logits.mul_(2), None][1])
    with pytest.raises(ll.ModelError, match="by more than its layers do"):
        ll.load(hf)


def test_adapters_that_are_mixed_by_a_first_pass_are_refused_by_name(tmp_path: Path) -> None:
    saved = {name: str(tmp_path / name) for name in ("0", "1")}  # peft counts them itself
    for folder in saved.values():
        tuned(lora(task_type="CAUSAL_LM")).save_pretrained(folder)
    base = tiny_model("llama")
    base.config.use_cache = False  # X-LoRA asks for it
    mixed = peft.get_peft_model(
        base, peft.XLoraConfig("CAUSAL_LM", hidden_size=base.config.hidden_size, adapters=saved)
    )
    with pytest.raises(ll.ModelError, match=r"The adapter \(xlora\)"):
        ll.load(mixed)
