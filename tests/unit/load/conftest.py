"""The default model for the tests that need it, and small folders for those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerlens.errors import ModelError
from layerlens.model import default


@pytest.fixture(scope="session")
def default_folder() -> Path:
    """The fetched default model; a test that needs it fails with the command where it is not."""
    try:
        return default.find()
    except ModelError as error:
        pytest.fail(str(error))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    monkeypatch.setenv("LAYERLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama with random weights, saved without a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    place = tmp_path / "tiny"
    LlamaForCausalLM(config).save_pretrained(place)
    return place
