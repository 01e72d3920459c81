"""Models of other kinds than a decoder of text: what they are fed, their anatomy, their heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

import layerlens as ll
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import perturb
from layerlens.run.proof_heads import eager

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SMALL = {**SIZES, "intermediate_size": 64}
PATCHES = {"image_size": 16, "patch_size": 4, "num_labels": 5, **SMALL}
SPEECH = {
    "vocab_size": 12, "conv_dim": (8, 8), "conv_stride": (8, 4), "conv_kernel": (10, 4),
    "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 8, **SMALL,
}  # fmt: skip
LAYERS = {"encoder_layers": 2, "decoder_layers": 3}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
WIDE = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
SIDES = {"vocab_size": 99, "d_model": 32, **LAYERS, **HEADS, **WIDE}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}

BUILDS: dict[str, Callable[[], Any]] = {
    "vit": lambda: tf.ViTForImageClassification(tf.ViTConfig(**PATCHES)),
    "deit": lambda: tf.DeiTForImageClassification(tf.DeiTConfig(**PATCHES)),
    "dinov2": lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**PATCHES)),
    "clip": lambda: tf.CLIPVisionModel(
        tf.CLIPVisionConfig(**{k: v for k, v in PATCHES.items() if k != "num_labels"})
    ),
    "wav2vec2": lambda: tf.Wav2Vec2ForCTC(tf.Wav2Vec2Config(**SPEECH)),
    "hubert": lambda: tf.HubertForCTC(tf.HubertConfig(do_stable_layer_norm=True, **SPEECH)),
    "sounds": lambda: tf.Wav2Vec2ForSequenceClassification(
        tf.Wav2Vec2Config(num_labels=4, classifier_proj_size=16, **SPEECH)
    ),
    "t5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(
            vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=3,
            num_heads=4, decoder_start_token_id=0,
        )
    ),
    "bart": lambda: tf.BartForConditionalGeneration(
        tf.BartConfig(max_position_embeddings=64, **SIDES)
    ),
    "whisper": lambda: tf.WhisperForConditionalGeneration(
        tf.WhisperConfig(
            max_source_positions=20, max_target_positions=30, suppress_tokens=None,
            begin_suppress_tokens=None, **ENDS, **SIDES,
        )
    ),
    "sentence": lambda: tf.BertForSequenceClassification(
        tf.BertConfig(vocab_size=99, num_labels=3, **SMALL)
    ),
    "roberta": lambda: tf.RobertaForSequenceClassification(
        tf.RobertaConfig(vocab_size=99, num_labels=3, **SMALL)
    ),
    "words": lambda: tf.BertForTokenClassification(
        tf.BertConfig(vocab_size=99, num_labels=7, **SMALL)
    ),
    "gpt2": lambda: tf.GPT2ForSequenceClassification(
        tf.GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=4, num_labels=3, pad_token_id=0)
    ),
}  # fmt: skip


@cache
def built(kind: str) -> LensModel:
    torch.manual_seed(0)
    hf = BUILDS[kind]().eval()
    perturb(hf)
    return ll.load(hf, name=kind)


def given(model: LensModel) -> Any:
    """Something that this model reads."""
    rng = np.random.default_rng(1)
    if model.feed.of_pairs and model.feed.kind == "text":
        return ll.sides([5, 6, 7, 8, 9], [10, 11])
    if model.feed.kind == "images":
        return ll.images(rng.normal(size=(3, 16, 16)).astype(np.float32))
    if model.feed.kind == "audio" and not model.feed.of_pairs:
        return ll.audio(rng.normal(size=1000))
    return [5, 6, 7, 8, 9]


@pytest.mark.parametrize("kind", BUILDS)
def test_it_is_proven(kind: str) -> None:
    model = built(kind)
    assert model.proof is not None
    names = [line.name for line in model.proof.lines]
    assert {"sums", "stream", "heads", "z", "pattern", "replay", "no-op"} <= set(names)
    assert ("head" in names) == (kind != "clip")
    assert ("places" in names) == (model.feed.kind == "images")


@pytest.mark.parametrize("kind", [kind for kind in BUILDS if kind not in ("clip", "whisper")])
def test_the_head_on_the_last_states_is_the_models_own_answer(kind: str) -> None:
    model = built(kind)
    tokens = model.tokens(given(model))
    with torch.inference_mode():
        if model.feed.of_pairs:
            own = model.hf(**tokens.given, decoder_input_ids=tokens.ids)
        elif model.feed.ids:
            own = model.hf(input_ids=tokens.ids)
        else:
            own = model.hf(**tokens.given)
    trace = ll.record(model, tokens, [f"resid_post.{model.n_layers - 1}"])
    with model.running():
        answer = model.answer(trace[f"resid_post.{model.n_layers - 1}"])
    assert torch.allclose(answer.squeeze(), own.logits.squeeze(), atol=1e-5)


def test_where_a_classifier_reads() -> None:
    def reads(kind: str) -> Any:
        head = built(kind).anatomy.head
        assert head is not None
        return None if head.pool is None else (head.pool.how, head.pool.position)

    assert reads("vit") == ("first", 0)
    assert reads("dinov2") == ("first and mean of the rest", None)
    assert reads("sentence") == ("within", 0)  # BERT's pooler
    assert reads("roberta") == ("within", 0)  # the head itself takes the first token
    assert reads("gpt2") == ("last", -1)
    assert reads("sounds") == ("mean", None)
    assert reads("words") is None


def test_bare_ids_could_be_those_of_either_side() -> None:
    with pytest.raises(ll.InputError, match=r"reads one side and writes another: give ll\.sides"):
        built("t5").tokens([5, 6])


def test_classes_have_the_labels_of_the_configuration() -> None:
    model = built("vit")
    assert model.token_string(3) == "LABEL_3"
    assert model.token_id("LABEL_3") == 3
    assert model.search_tokens("label_4") == [(4, "LABEL_4")]
    with pytest.raises(ll.InputError, match="There is no class 'cat': the classes are LABEL_0"):
        model.token_id("cat")


def test_a_written_side_has_three_sublayers_and_both_sides_are_models() -> None:
    for kind in ("t5", "bart", "whisper"):
        model = built(kind)
        assert not model.bidirectional
        assert "cross_attn_out" in model.anatomy.blocks[0].taps
        encoder = model.encoder
        assert encoder.bidirectional
        assert encoder.n_layers == 2
        assert encoder.proof is not None
        assert encoder.proof.ok


def test_what_a_decoder_adds_is_the_sum_of_three() -> None:
    model = built("t5")
    trace = ll.record(model, given(model), model.anatomy.available())
    for layer in range(model.n_layers):
        parts = ("resid_pre", "attn_out", "cross_attn_out", "mlp_out")
        total = sum(trace[part, layer] for part in parts)
        assert torch.allclose(total, trace["resid_post", layer], atol=1e-5)
        crossed = trace["resid_mid", layer] + trace["cross_attn_out", layer]
        assert torch.allclose(crossed, trace["resid_mid_cross", layer], atol=1e-5)


def test_the_encoder_of_a_pair_gives_what_it_gives_in_the_pair() -> None:
    model = built("bart")
    tokens = model.tokens(given(model))
    with torch.inference_mode():
        own = model.hf(**tokens.given, decoder_input_ids=tokens.ids, output_hidden_states=True)
    states = ll.record(model.encoder, [5, 6, 7, 8, 9], "resid_post.1")["resid_post.1"]
    assert torch.equal(states, own.encoder_last_hidden_state)


def test_a_frame_is_as_long_as_the_strides_say() -> None:
    tokens = built("wav2vec2").tokens(ll.audio(np.zeros(1000), rate=16000))
    assert tokens.strings[0][:3] == ("0.000s", "0.002s", "0.004s")  # 8 * 4 samples
    with pytest.raises(ll.InputError, match="8000 samples a second, but the model takes 16000"):
        built("wav2vec2").tokens(ll.audio(np.zeros(1000), rate=8000))


def test_what_is_of_another_kind_is_refused_in_a_sentence() -> None:
    with pytest.raises(ll.InputError, match=r"vit reads images: give ll\.images\(\.\.\.\)"):
        built("vit").tokens("a text")
    with pytest.raises(ll.InputError, match="sentence reads a text"):
        built("sentence").tokens(ll.images(np.zeros((8, 8), dtype=np.uint8)))
    with pytest.raises(ll.InputError, match=r"takes pictures \(3, 16, 16\).*not \(3, 8, 8\)"):
        built("vit").tokens(ll.images(np.zeros((3, 8, 8), dtype=np.float32)))
    with pytest.raises(ll.InputError, match="vit has no image processor"):
        built("vit").tokens(ll.images(np.zeros((8, 8), dtype=np.uint8)))
    picture = given(built("vit"))
    with pytest.raises(ll.InputError, match="vit reads images, but invariance is for text"):
        ll.invariance(built("vit"), picture)


@pytest.mark.parametrize("kind", ["t5", "whisper", "bart"])
def test_an_edit_behind_the_second_attention_changes_the_stream(kind: str) -> None:
    model = built(kind)
    tokens = model.probe() if kind == "whisper" else model.tokens(given(model))
    sites = ["resid_mid_cross.1", "mlp_out.1", "resid_post.1"]
    moved = torch.linspace(-1, 1, model.d_model)
    trace = ll.record(model, tokens, sites, edits=ll.edit("resid_mid_cross.1", "add", moved))
    plain = ll.record(model, tokens, sites)
    at = trace["resid_mid_cross.1"]
    assert torch.allclose(at, plain["resid_mid_cross.1"] + moved, atol=1e-5)
    total = at + trace["mlp_out.1"]
    block = model.anatomy.blocks[1]
    with model.running():
        if block.post_norm:
            total = model.hf.get_submodule(block.post_norm)(total)
    assert torch.allclose(total, trace["resid_post.1"], atol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "bart", "whisper"])
def test_the_second_attention_is_read_head_by_head(kind: str) -> None:
    """Against the weights that transformers hands out, and the heads' own arithmetic."""
    model = built(kind)
    tokens = model.probe() if kind == "whisper" else model.tokens(given(model))
    names = [f"cross_{part}.1" for part in ("q", "k", "v", "attn_scores", "pattern", "z")]
    trace = ll.record(model, tokens, names)
    with torch.no_grad(), eager(model.hf):
        arguments = model.feed.arguments(model.hf, tokens)
        own = model.hf(**arguments, output_attentions=True).cross_attentions[1]
    assert own.shape[-1] != own.shape[-2]
    assert torch.allclose(trace["cross_pattern.1"], own, atol=1e-6)
    assert torch.allclose(trace["cross_attn_scores.1"].softmax(-1), own, atol=1e-6)
    q, k, v = (trace[f"cross_{part}.1"] for part in "qkv")
    scale = q.shape[-1] ** -0.5 if kind == "bart" else 1  # the others' weights, or queries, have it
    found = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    assert torch.allclose(found.softmax(-1), own, atol=1e-5)
    z = torch.einsum("bhqk,bkhd->bqhd", own, v)
    assert torch.allclose(z, trace["blocks.1.cross_attn.hook_z"], atol=1e-5)
    kept = ll.record(model, tokens, ["cross_pattern.1.2", "cross_k.1"], positions=[1])
    assert torch.equal(kept["cross_pattern.1.2"], trace["cross_pattern.1"][:, 2, [1]])
    assert kept["cross_k.1"].shape == k.shape


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_head_of_the_second_attention_is_taken_out(kind: str) -> None:
    model = built(kind)
    tokens = model.tokens(given(model))
    sites = ["cross_z.1", "cross_attn_out.1"]
    plain = ll.record(model, tokens, sites)
    cut = ll.record(model, tokens, sites, edits=ll.edit("cross_z.1.2", "zero"))
    assert not cut["cross_z.1"][:, :, 2].any()
    projection = model.hf.get_submodule(model.anatomy.blocks[1].taps["cross_z"].module)
    lost = torch.zeros_like(plain["cross_z.1"])
    lost[:, :, 2] = plain["cross_z.1"][:, :, 2]
    with torch.no_grad():
        wrote = lost.flatten(-2) @ projection.weight.T
    gap = plain["cross_attn_out.1"] - cut["cross_attn_out.1"]
    assert torch.allclose(gap, wrote, atol=1e-5)
    with pytest.raises(ll.SiteError, match="can be read and not edited"):
        ll.run(model, tokens, ll.edit("cross_pattern.1", "zero"))


def test_what_has_no_second_attention_says_so() -> None:
    with pytest.raises(ll.SiteError, match="no second attention"):
        ll.record(built("vit"), given(built("vit")), "cross_pattern.0")


def test_what_a_decoder_looks_at_is_shown() -> None:
    trace = ll.record(built("t5"), given(built("t5")), "cross_pattern")
    view = ll.head_view(
        cross_attention=trace["cross_pattern"], encoder_tokens=list("abcde"),
        decoder_tokens=list("xyz"), html_action="return",
    )  # fmt: skip
    assert view.data.startswith("<")
    with pytest.raises(ll.InputError):
        ll.head_view(
            cross_attention=trace["cross_pattern"], encoder_tokens=list("xyz"),
            decoder_tokens=list("abcde"),
        )  # fmt: skip
