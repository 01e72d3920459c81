"""The default model says what is known of it, from sources other than this code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from layerlens.model import default
from layerlens.model.lensmodel import LensModel
from layerlens.model.load import load

pytestmark = pytest.mark.model

KNOWN = json.loads(Path(__file__).with_name("llama_cpp_ids.json").read_text(encoding="utf-8"))


def test_the_known_ids_are_of_this_very_file() -> None:
    assert KNOWN["gguf_sha256"] == default.GGUF_SHA256
    assert len(KNOWN["ids"]) >= 20


@pytest.mark.parametrize("text", KNOWN["ids"])
def test_token_ids_are_those_of_llama_cpp(default_model: LensModel, text: str) -> None:
    ids = default_model.tokenizer(text)["input_ids"]
    assert ids == KNOWN["ids"][text]
    assert default_model.tokenizer.decode(ids) == text


def test_digits_are_tokens_of_their_own(default_model: LensModel) -> None:
    assert default_model.tokenizer.tokenize("90210") == ["9", "0", "2", "1", "0"]


def test_paris(default_model: LensModel) -> None:
    ids = torch.tensor([default_model.tokenizer("The capital of France is")["input_ids"]])
    with torch.inference_mode():
        probability, top = default_model.hf(ids).logits[0, -1].softmax(-1).topk(5)
    words = [default_model.tokenizer.decode([int(each)]) for each in top]
    assert words == [" Paris", " the", " London", " Le", " New"]
    # llama.cpp, which rounds activations to 8 bits, gives 0.7719 for the first.
    expected = torch.tensor([0.7725, 0.0645, 0.0125, 0.0099, 0.0093])
    torch.testing.assert_close(probability, expected, atol=2e-4, rtol=0)


def test_shape_dtype_and_proof(default_model: LensModel) -> None:
    assert default_model.name == default.NAME
    assert (default_model.n_layers, default_model.n_heads, default_model.n_kv_heads) == (30, 9, 3)
    assert (default_model.d_model, default_model.d_vocab) == (576, 49_152)
    assert default_model.dtype == torch.float32
    assert default_model.proof is not None


def test_chat_template_survived(default_model: LensModel) -> None:
    text = default_model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_config_no_longer_says_quantised(default_folder: Path) -> None:
    assert "quantization_config" not in (default_folder / "config.json").read_text("utf-8")


def test_loads_without_network(default_model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("load() opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    load(prove=False)
