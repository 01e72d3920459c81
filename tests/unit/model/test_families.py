"""Every family that users meet is found and proven; a wrong anatomy is not."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING

from layerlens.errors import ModelError, ProofError
from layerlens.model.anatomy import Anatomy, BlockAnatomy, Tap
from layerlens.model.evidence import Proof
from layerlens.model.lensmodel import LensModel
from layerlens.model.support import all_families, examine, page, summary
from layerlens.model.tiny import tiny_config, tiny_model
from layerlens.model.tiny_families import VARIANTS
from layerlens.run.edits import edit
from layerlens.run.proof import prove_anatomy
from layerlens.run.record import record
from layerlens.run.replay import replay

IN_FULL = [
    "bart",
    "bert",
    "biogpt",
    "bloom",
    "codegen",
    "cohere",
    "cohere2",
    "deepseek_v2",
    "deepseek_v3",
    "ernie4_5",
    "exaone4",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma4_text",
    "glm",
    "glm4",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "gpt2",
    "granite",
    "granitemoe",
    "granitemoeshared",
    "llama",
    "llama4_text",
    "mbart",
    "minimax_m2",
    "ministral3",
    "mistral",
    "mixtral",
    "mpt",
    "nanochat",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "openai-gpt",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "roberta",
    "smollm3",
    "stablelm",
    "starcoder2",
    "whisper",
    "xglm",
]

PARALLEL = {"cohere", "cohere2", "codegen", "falcon", "gpt_neox", "gptj", "phi"}

HYBRID = ["bamba", "falcon_mamba", "jamba", "lfm2_moe", "mamba", "mamba2", "qwen3_next", "rwkv"]

VARIANT_CASES = [
    pytest.param(name, overrides, id=f"{name}-{label}")
    for name, several in VARIANTS.items()
    for label, overrides in several.items()
    if (name, label) != ("granitemoehybrid", "no experts")
]


def proof_of(hf: nn.Module) -> tuple[LensModel, Proof]:
    model = LensModel.wrap(hf, prove=False)
    return model, prove_anatomy(model)


@pytest.mark.parametrize("model_type", IN_FULL)
def test_a_family_is_proven_in_full(model_type: str) -> None:
    model, proof = proof_of(tiny_model(model_type))
    assert proof.full, str(proof)
    block = model.anatomy.blocks[0]
    assert block.layout == ("parallel" if model_type in PARALLEL else "sequential")
    # families move to the attention interface from release to release
    code = sys.modules[type(model.hf.get_submodule(block.mixer)).__module__]
    shared = hasattr(code, "ALL_ATTENTION_FUNCTIONS")
    assert block.attention == ("interface" if shared else "spy")
    assert model.n_layers == 3
    assert model.n_heads == 4
    assert model.d_model == 32


@pytest.mark.parametrize(("model_type", "overrides"), VARIANT_CASES)
def test_a_variant_is_proven_in_full(model_type: str, overrides: dict[str, Any]) -> None:
    _, proof = proof_of(tiny_model(model_type, **overrides))
    assert proof.full, str(proof)


@pytest.mark.parametrize("model_type", HYBRID)
def test_blocks_without_softmax_attention_are_proven_without_heads(model_type: str) -> None:
    model, proof = proof_of(tiny_model(model_type))
    assert proof.ok, str(proof)
    assert not proof.full
    assert "no heads there" in proof.notes[0]
    assert any(block.attention is None and "z" not in block.taps for block in model.anatomy.blocks)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("gemma3n_text", "several residual streams"),
        ("reformer", "two residual streams"),
        ("xlnet", "two-stream attention"),
        ("hrm_text", "in a loop"),
    ],
)
def test_a_family_that_does_not_fit_is_refused_in_one_sentence(
    model_type: str, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        LensModel.wrap(tiny_model(model_type))
    assert str(caught.value).count(". ") == 0
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize(
    "model_type", ["llama", "gpt2", "gemma2", "gpt_neox", "mixtral", "gemma4_text", "falcon"]
)
def test_half_precision_is_proven(model_type: str, dtype: torch.dtype) -> None:
    _, proof = proof_of(tiny_model(model_type).to(dtype))
    assert proof.full, str(proof)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi"])
def test_a_stream_with_huge_single_values_is_proven_in_half_precision(model_type: str) -> None:
    """Real models hold values thousands of times as large as what a block adds."""
    hf = tiny_model(model_type)
    with torch.no_grad():
        hf.get_input_embeddings().weight[:, 5] = 800.0
    _, proof = proof_of(hf.to(torch.bfloat16))
    assert proof.full, str(proof)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2", "bert"])
def test_eager_attention_is_proven(model_type: str) -> None:
    hf = tiny_model(model_type)
    hf.set_attn_implementation("eager")
    _, proof = proof_of(hf)
    assert proof.full, str(proof)
    assert hf.config._attn_implementation == "eager"


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "falcon"])
def test_one_block_is_enough(model_type: str) -> None:
    name = {"gpt2": "n_layer"}.get(model_type, "num_hidden_layers")
    model, proof = proof_of(tiny_model(model_type, **{name: 1}))
    assert proof.full, str(proof)
    assert model.n_layers == 1


def test_the_proof_leaves_the_model_as_it_was() -> None:
    hf = tiny_model("gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5).train()
    hf.transformer.h[1].eval()
    modes = [module.training for module in hf.modules()]
    seen: list[int] = []
    hook = hf.transformer.h[0].register_forward_hook(lambda *_: seen.append(1))
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in hf.modules()]
    configs = [id(getattr(module, "config", None)) for module in hf.modules()]
    config = hf.config.to_dict()

    _, proof = proof_of(hf)

    assert proof.full, str(proof)
    assert seen, "the user's own hook was not called"
    assert modes == [module.training for module in hf.modules()]
    assert hooks == [
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in hf.modules()
    ]
    assert configs == [id(getattr(module, "config", None)) for module in hf.modules()]
    assert config == hf.config.to_dict()
    assert hf.config._attn_implementation == "sdpa"
    hook.remove()


# What follows breaks an anatomy on purpose: a proof that cannot fail proves nothing.


def with_block(anatomy: Anatomy, layer: int, **changes: Any) -> Anatomy:
    blocks = list(anatomy.blocks)
    blocks[layer] = replace(blocks[layer], **changes)
    return replace(anatomy, blocks=tuple(blocks))


def with_taps(anatomy: Anatomy, layer: int, **taps: Tap) -> Anatomy:
    return with_block(anatomy, layer, taps={**anatomy.blocks[layer].taps, **taps})


def swapped(block: BlockAnatomy) -> dict[str, Tap]:
    return {"attn_out": block.taps["mlp_out"], "mlp_out": block.taps["attn_out"]}


def failing(model_type: str, change: Any, **overrides: Any) -> str:
    """Names of the lines that fail, or the refusal, once the anatomy is changed."""
    model = LensModel.wrap(tiny_model(model_type, **overrides), prove=False)
    assert prove_anatomy(model).ok
    model.anatomy = change(model.anatomy)
    try:
        proof = prove_anatomy(model)
    except ProofError as error:
        return str(error)
    with pytest.raises(ProofError):
        proof.require()
    return " ".join(line.name for line in proof.lines if not line.ok)


LLAMA = "model.layers.1"


@pytest.mark.parametrize(
    ("line", "taps"),
    [
        ("sums", {"attn_out": Tap(f"{LLAMA}.input_layernorm", "output")}),
        ("sums", {"mlp_out": Tap(f"{LLAMA}.mlp.down_proj", "output", scale=1.01)}),
        ("sums", {"resid_mid": Tap(f"{LLAMA}.mlp", "input")}),
        ("sums", {"resid_pre": Tap(f"{LLAMA}.input_layernorm", "output")}),
        ("sums", {"resid_post": Tap(f"{LLAMA}.mlp", "output")}),
        ("stream", {"resid_post": Tap("model.layers.2", "output")}),
        ("z", {"z": Tap(f"{LLAMA}.self_attn.q_proj", "input")}),
        ("z", {"z": Tap("model.layers.0.self_attn.o_proj", "input")}),
        ("neurons", {"mlp_post": Tap("model.layers.0.mlp.down_proj", "input")}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_moved_tap_fails(line: str, taps: dict[str, Tap]) -> None:
    assert line in failing("llama", lambda anatomy: with_taps(anatomy, 1, **taps)).split()


def test_a_tap_that_never_fires_is_refused() -> None:
    hf = tiny_model("llama")
    hf.add_module("unused", nn.Identity())
    model = LensModel.wrap(hf, prove=False)
    model.anatomy = with_taps(model.anatomy, 1, z=Tap("unused", "input"))
    with pytest.raises(ProofError, match="fired 0 times"):
        prove_anatomy(model)


@pytest.mark.parametrize("model_type", ["llama", "gptj", "cohere", "gpt_neox", "falcon"])
def test_attention_and_mlp_taken_for_each_other_fail(model_type: str) -> None:
    names = failing(model_type, lambda a: with_taps(a, 1, **swapped(a.blocks[1])))
    assert {"sums", "attn_out"} & set(names.split())


@pytest.mark.parametrize(
    ("model_type", "line", "change"),
    [
        ("bert", "sums", {"mid_norm": None}),
        ("bert", "sums", {"post_norm": None}),
        ("minimax", "sums", {"pre_norm": None}),
        ("gemma4_text", "sums", {"gain": 1.0}),
        ("llama", "already", {"mixer": "model.layers.0.self_attn"}),
    ],
)
def test_a_wrong_structure_fails(model_type: str, line: str, change: dict[str, Any]) -> None:
    names = failing(model_type, lambda anatomy: with_block(anatomy, 1, **change))
    assert line in names.split()


def test_a_forgotten_scale_fails() -> None:
    def unscaled(anatomy: Anatomy) -> Anatomy:
        taps = {kind: replace(tap, scale=1.0) for kind, tap in anatomy.blocks[2].taps.items()}
        return with_taps(anatomy, 2, **taps)

    assert "sums" in failing("granite", unscaled).split()


def test_what_a_block_multiplies_its_sublayers_with_is_part_of_them() -> None:
    """BEiT's layer scale is applied by no module; it is checked, read and edited all the same."""
    hf = tiny_model("beit", task="ImageClassification")
    model, proof = proof_of(hf)
    assert proof.full, str(proof)
    path = "beit.layers.1"
    tap = model.anatomy.blocks[1].taps["attn_out"]
    assert tap.vector == f"{path}.lambda_1"
    given: list[Tensor] = []
    hook = hf.get_submodule(tap.module).register_forward_hook(
        lambda _, __, out: given.append(out[0] if isinstance(out, tuple) else out)
    )
    trace = record(model, model.probe(), ["attn_out.1", "resid_pre.1"])
    hook.remove()
    assert torch.allclose(
        trace["attn_out.1"], given[0] * hf.get_parameter(tap.vector).detach(), atol=1e-6
    )
    moved = record(model, model.probe(), "resid_mid.1", edits=edit("attn_out.1", "zero"))
    assert torch.allclose(moved["resid_mid.1"], trace["resid_pre.1"], atol=1e-6)

    taps = {kind: replace(tap, vector="") for kind, tap in model.anatomy.blocks[1].taps.items()}
    model.anatomy = with_taps(model.anatomy, 1, **taps)
    assert "sums" in {line.name for line in prove_anatomy(model).lines if not line.ok}


def test_relative_positions_are_not_taken_for_keys() -> None:
    """DeBERTa adds products of q and of k with vectors of distances to its scores."""
    hf = tiny_model("deberta-v2", task="MaskedLM")
    model = LensModel.wrap(hf, prove=False)
    trace = record(model, model.probe(), ["q.1", "k.1", "resid_pre.1"])
    for kind, name in (("q", "query_proj"), ("k", "key_proj")):
        projection = hf.get_submodule(f"deberta.encoder.layer.1.attention.self.{name}")
        with torch.no_grad():
            own = projection(trace["resid_pre.1"]).unflatten(-1, (4, -1))
        ratio = trace[f"{kind}.1"] / own  # the product may be scaled on either side
        assert torch.allclose(ratio, ratio.mean(), rtol=1e-3)


def test_a_forgotten_summand_fails() -> None:
    def without(anatomy: Anatomy) -> Anatomy:
        tap = anatomy.blocks[0].taps["mlp_out"]
        assert tap.plus
        return with_taps(anatomy, 0, mlp_out=replace(tap, plus=()))

    assert "sums" in failing("granitemoeshared", without).split()


@pytest.mark.parametrize(
    ("model_type", "change"),
    [
        ("llama", {"chain": ()}),
        ("gemma2", {"operations": ()}),
        ("cohere", {"operations": ()}),
        ("granite", {"operations": (("multiply", 3.0),)}),
        ("llama", {"scale_in": 0.99}),
    ],
)
def test_a_wrong_head_fails(model_type: str, change: dict[str, Any]) -> None:
    names = failing(model_type, lambda a: replace(a, head=replace(a.head, **change)))
    assert names.split() == ["head"]


def test_a_pattern_that_is_not_the_models_own_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerlens.run import attention

    def uniform(module: nn.Module, query: Tensor, key: Tensor, *_: Any, **__: Any) -> Any:
        return query.new_zeros(*query.shape[:3], key.shape[2]), None

    model = LensModel.wrap(tiny_model("llama"), prove=False)
    monkeypatch.setattr(attention, "scores", uniform)
    proof = prove_anatomy(model)
    assert {"z", "pattern"} <= {line.name for line in proof.lines if not line.ok}


def meddle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an attention that is watched give something else."""
    from layerlens.run import attention

    original = attention.attention_function

    def meddling(module: nn.Module, name: str) -> Any:
        function = original(module, name)

        def doubled(*args: Any, **kwargs: Any) -> Any:
            out, weights = function(*args, **kwargs)
            return out * 2, weights

        return doubled

    monkeypatch.setattr(attention, "attention_function", meddling)


def test_recording_that_changes_the_pass_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LensModel.wrap(tiny_model("llama"), prove=False)
    meddle(monkeypatch)
    assert "recording" in {line.name for line in prove_anatomy(model).lines if not line.ok}


def test_watching_that_changes_the_pass_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    meddle(monkeypatch)
    model = LensModel.wrap(tiny_model("llama"), prove=False)
    assert all(block.attention != "interface" for block in model.anatomy.blocks)


@pytest.mark.parametrize(
    ("line", "name", "wrong"),
    [
        ("no-op", "twin", lambda value: value * 1.5),
        ("replay", "replay", lambda model, calls, state: replay(model, calls[::-1], state)),
    ],
)
def test_an_edit_or_a_replay_that_goes_wrong_fails(
    monkeypatch: pytest.MonkeyPatch, line: str, name: str, wrong: Any
) -> None:
    model = LensModel.wrap(tiny_model("llama"), prove=False)
    monkeypatch.setattr(f"layerlens.run.proof.{name}", wrong)
    assert [each.name for each in prove_anatomy(model).lines if not each.ok] == [line]


def test_tiny_models_are_tiny_random_and_repeatable() -> None:
    first, again, other = (tiny_model("llama", seed) for seed in (0, 0, 1))
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert not torch.equal(first.model.norm.weight, torch.ones(32))
    before = torch.random.get_rng_state()
    tiny_model("gpt2")
    assert torch.equal(before, torch.random.get_rng_state())
    assert tiny_config("qwen3_next").layer_types[:2] == ["linear_attention", "full_attention"]


def test_a_tiny_model_that_would_not_be_tiny_is_not_built() -> None:
    with pytest.raises(ModelError, match="more than"):
        tiny_model("llama", vocab_size=10_000_000)


def test_the_survey_says_what_came_out() -> None:
    full = examine("llama")
    assert (full.outcome, full.attention, full.heads) == ("full", "interface", "4 / 2")
    partly = examine("mamba")
    assert partly.outcome == "partly"
    assert "no heads there" in partly.reason
    refused = examine("xlnet")
    assert refused.outcome == "refused"
    unbuilt = examine("llama", vocab_size=10_000_000)
    assert unbuilt.outcome == "unbuilt"
    found = [full, partly, refused, unbuilt]
    assert summary(found).startswith("1 proven in full, 1 proven without heads, 1 refused")
    text = page(found)
    assert "| llama | LlamaForCausalLM | sequential | interface | 4 / 2 | proven in full |" in text
    assert "## Images" in text
    assert len({entry[:3] for entry in all_families()}) == len(all_families()) > 350


@pytest.mark.parametrize(
    ("model_type", "task"),
    [
        ("deberta-v2", "MaskedLM"), ("electra", "MaskedLM"), ("modernbert", "MaskedLM"),
        ("distilbert", "MaskedLM"), ("mbart", "Seq2SeqLM"), ("pegasus", "Seq2SeqLM"),
        ("mt5", "Seq2SeqLM"), ("clip", "ImageClassification"),
        ("dinov2_with_registers", "ImageClassification"), ("speech_to_text", "SpeechSeq2Seq"),
        ("audio-spectrogram-transformer", "AudioClassification"),
        ("deberta", "MaskedLM"),  # as in v2, relative positions are products beside q times k
        ("albert", "MaskedLM"),  # one block, several times over
        ("esmc", "MaskedLM"),  # sublayers that are divided by a number of the block's
        ("omniasr_ctc", "CTC"),  # sounds with an axis of channels
    ],
)  # fmt: skip
def test_models_of_other_kinds_are_proven_in_full(model_type: str, task: str) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    found = examine(model_type, task)
    assert (found.outcome, found.reason) == ("full", "")


@pytest.mark.parametrize(
    ("model_type", "task", "why"),
    [
        ("convbert", "MaskedLM", "no z"),  # its projection reads a convolution besides the heads
        ("sew", "CTC", "no head"),  # answers at more places than the blocks have positions
        ("swin", "ImageClassification", "no head"),
    ],
)
def test_what_does_not_fit_is_left_out_of_the_rest(model_type: str, task: str, why: str) -> None:
    found = examine(model_type, task)
    assert found.outcome == "partly"
    assert why in found.reason


def test_what_is_of_another_make_is_refused_with_its_reason() -> None:
    assert "laid out by position" in examine("fsmt", "Seq2SeqLM").reason
    assert "convolutional network" in examine("resnet", "ImageClassification").reason
