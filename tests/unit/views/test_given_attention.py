"""Attention in the shapes that other tools take, in our view, without a model."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import torch
from IPython.display import HTML

import layerlens as ll
from layerlens.errors import InputError
from layerlens.export import html
from layerlens.export.attention_slices import Slice, decode
from layerlens.export.pack import unpack
from layerlens.model.tiny import tiny_model
from layerlens.views import AttentionView

LAYERS, HEADS, SIZE = 3, 2, 4
WORDS = ["Ġthe", "Ġcat", "sat", "</s>"]


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


WHOLE = weights(LAYERS, HEADS, SIZE, SIZE)
SHAPES: dict[str, tuple[Any, np.ndarray]] = {
    "tuple of [1, heads, q, k]": (tuple(torch.from_numpy(one[None]) for one in WHOLE), WHOLE),
    "half precision": (tuple(torch.from_numpy(one[None]).bfloat16() for one in WHOLE), WHOLE),
    "list of [heads, q, k]": (list(WHOLE), WHOLE),
    "[layers, heads, q, k]": (WHOLE, WHOLE),
    "[layers, 1, heads, q, k]": (WHOLE[:, None], WHOLE),
    "[heads, q, k]": (torch.from_numpy(WHOLE[0]), WHOLE[:1]),
    "[q, k]": (WHOLE[0, 0], WHOLE[:1, :1]),
    "plain lists": (WHOLE[0, 0].tolist(), WHOLE[:1, :1]),
}


def held(view: AttentionView, part: str = "self") -> np.ndarray:
    """What the page of a view holds, ``[layer, head, query, key]``."""
    meta, _ = unpack(view._frozen()[1])
    layers = (meta["by_part"].get(part) or meta)["layers"]
    pieces = [meta["slices"][f"{layer}/{part}/pattern/0"] for layer in layers]
    return np.stack([decode(Slice(one, base64.b64decode(one["data"]))) for one in pieces])


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_shown(name: str) -> None:
    given, expected = SHAPES[name]
    view = AttentionView.from_attention(given, WORDS)
    assert not view.live
    assert held(view).shape == expected.shape
    assert np.allclose(held(view), expected, atol=1e-2)
    assert [token["text"] for token in view.meta["tokens"]] == WORDS
    assert view.meta["setup"].startswith("import layerlens as ll")


def test_what_transformers_hands_out() -> None:
    hf = tiny_model("llama", 1)
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        given = hf(torch.tensor([[1, 2, 3, 4]]), output_attentions=True).attentions
    view = ll.head_view(given, WORDS, layer=1)
    assert view.layer == 1
    assert np.allclose(held(view), torch.cat(given).numpy(), atol=1 / 255)


def test_queries_and_keys_may_differ() -> None:
    view = AttentionView.from_attention(weights(2, 3, 5), ["x", "y", "z"], list("abcde"))
    assert [token["text"] for token in view.meta["key_tokens"]] == list("abcde")
    assert held(view).shape == (1, 2, 3, 5)
    numbered = AttentionView.from_attention(weights(3, 5))
    assert [token["text"] for token in numbered.meta["key_tokens"]] == list("01234")


def test_head_view_takes_what_bertviz_takes() -> None:
    view = ll.head_view(SHAPES["tuple of [1, heads, q, k]"][0], WORDS, layer=2, heads=[1],
                        include_layers=[0, 2])  # fmt: skip
    assert (view.mode, view.layer, view.shown) == ("lines", 2, [1])
    assert view.meta["layers"] == [0, 2]
    assert [token["text"] for token in view.meta["tokens"]] == [" the", " cat", "sat", "</s>"]
    plain = ll.head_view(WHOLE, WORDS, prettify_tokens=False)
    assert plain.meta["tokens"][0]["text"] == "Ġthe"


def test_a_pair_of_sentences_has_tabs() -> None:
    view = ll.head_view(WHOLE, WORDS, sentence_b_start=1)
    assert view.meta["parts"] == ["all", "A → A", "A → B", "B → A", "B → B"]
    across = view.meta["by_part"]["B → A"]
    assert [token["text"] for token in across["tokens"]] == [" cat", "sat", "</s>"]
    assert [token["text"] for token in across["key_tokens"]] == [" the"]
    assert np.allclose(held(view, "B → A"), WHOLE[:, :, 1:, :1], atol=1e-2)


def test_an_encoder_decoder_has_three_parts() -> None:
    encoder, decoder, cross = weights(3, 2, 4, 4), weights(2, 2, 3, 3), weights(2, 2, 3, 4)
    view = ll.model_view(
        encoder_attention=tuple(encoder[:, None]), decoder_attention=tuple(decoder[:, None]),
        cross_attention=tuple(cross[:, None]), encoder_tokens=WORDS, decoder_tokens=list("xyz"),
        display_mode="dark",
    )  # fmt: skip
    assert (view.theme, view.mode) == ("dark", "matrix")
    assert view.meta["parts"] == ["encoder", "decoder", "cross"]
    assert view.meta["layers"] == [0, 1, 2]
    assert view.meta["by_part"]["decoder"]["layers"] == [0, 1]
    assert np.allclose(held(view, "cross"), cross, atol=1e-2)
    assert view.result.figure(part="cross", layer=1, head=1).axes


def test_heads_can_be_chosen_and_named() -> None:
    view = ll.model_view(WHOLE, WORDS, include_heads=[1])
    assert view.meta["head_names"] == ["1"]
    assert np.allclose(held(view), WHOLE[:, 1:], atol=1e-2)
    named = ll.attention_heads(WHOLE[0], WORDS, ["first", "second"])
    assert named.meta["head_names"] == ["first", "second"]
    assert np.allclose(held(named)[0], np.tril(WHOLE[0]), atol=1e-2)
    open_ = ll.attention_heads(WHOLE[0], WORDS, mask_upper_tri=False)
    assert np.allclose(held(open_)[0], WHOLE[0], atol=1e-2)
    beside = ll.attention_patterns(WORDS, WHOLE[0], ["first", "second"])
    assert beside.mode == "both"


def test_signed_weights_keep_their_signs() -> None:
    signed = np.linspace(-1, 1, 2 * 9, dtype=np.float32).reshape(2, 3, 3)
    view = ll.attention_heads(signed, list("abc"), mask_upper_tri=False)
    assert np.allclose(held(view)[0], signed, atol=1 / 200)


def test_a_page_can_be_returned(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.css").write_text("")
    (tmp_path / "host.js").write_text("")
    monkeypatch.setattr(html, "STATIC", tmp_path)
    page = ll.head_view(WHOLE, WORDS, html_action="return")
    assert isinstance(page, HTML)
    assert page.data.startswith("<!DOCTYPE html>")


def test_the_table_and_the_repr_of_given_attention() -> None:
    view = AttentionView.from_attention(WHOLE, WORDS)
    assert len(view.result.to_pandas()) == LAYERS * HEADS * SIZE * SIZE
    assert "AttentionView" in repr(view)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ll.head_view(WHOLE[None, None], WORDS), r"has the shape \[1, 1, 3, 2, 4, 4\]"),
        (lambda: ll.head_view(np.ones(3), WORDS), r"has the shape \[3\]; give a tuple"),
        (lambda: ll.head_view((weights(2, 2, 4, 4),), WORDS), "holds 2 texts and one is shown"),
        (lambda: ll.head_view((None, None), WORDS), "attn_implementation='eager'"),
        (lambda: ll.head_view((), WORDS), "attention is empty"),
        (lambda: ll.head_view("attention", WORDS), "attention is str; give"),
        (lambda: ll.head_view((WHOLE[0], WHOLE[0, :1]), WORDS), "differ in shape"),
        (lambda: ll.head_view(WHOLE * np.nan, WORDS), "holds NaN"),
        (lambda: ll.head_view(WHOLE, WORDS[:3]), "3 tokens, but the query axis of attention has 4"),
        (lambda: ll.head_view(WHOLE, "a text"), "a list of strings"),
        (lambda: ll.head_view(WHOLE[0, :, :2], WORDS[:2]), "give key_tokens too"),
        (lambda: ll.head_view(WHOLE, WORDS, layer=9), "layer is 9; there are"),
        (lambda: ll.head_view(WHOLE, WORDS, include_layers=[9]), "there are 3 layers, from 0"),
        (lambda: ll.head_view(WHOLE, WORDS, sentence_b_start=4), "from 1 to 3"),
        (lambda: ll.head_view(WHOLE, WORDS, html_action="save"), "'view' or 'return'"),
        (lambda: ll.head_view(), "Give attention, or encoder_attention"),
        (lambda: ll.head_view(WHOLE, WORDS, encoder_attention=WHOLE), "and not both"),
        (lambda: ll.head_view(tokens=WORDS, cross_attention=WHOLE), "belong to attention"),
        (lambda: ll.model_view(WHOLE, WORDS, include_heads=[5]), "there are 2 heads, from 0"),
        (lambda: ll.head_view(WHOLE, WORDS, heads=[5]), "heads is .5.; there are 2 heads"),
        (lambda: ll.head_view(WHOLE, 5), "a list of strings"),
        (lambda: ll.head_view(WHOLE, WORDS, sentence_b_start="b"), "sentence_b_start is a whole"),
        (lambda: ll.head_view(WHOLE * np.inf, WORDS), "holds NaN or infinity"),
        (lambda: ll.head_view(WHOLE + 1j, WORDS), "attention is ndarray; give"),
        (lambda: ll.model_view(WHOLE, WORDS, display_mode="night"), "choose auto, light, dark"),
        (lambda: ll.attention_heads(WHOLE[0], WORDS, [1, 2]), "names of the heads are a list"),
        (lambda: ll.attention_heads(WHOLE[0], WORDS, ["one"]), "1 names of heads and 2 heads"),
        (lambda: ll.attention(WHOLE, WORDS), "ll.AttentionView.from_attention"),
        (lambda: ll.attention(tuple(WHOLE), WORDS), "ll.AttentionView.from_attention"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_sentence(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
