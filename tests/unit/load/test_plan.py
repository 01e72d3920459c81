"""What a model would take is known before any of its weights are read."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

import layerlens as ll
from layerlens.model.plan import _Held
from layerlens.model.tiny import tiny_model

TOKENS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("planned")
    tiny_model("llama").to(torch.bfloat16).save_pretrained(made)
    return made


def test_it_is_what_the_loaded_model_has(folder: Path) -> None:
    plan = ll.estimate(folder, tokens=TOKENS)
    hf = tiny_model("llama").to(torch.bfloat16)
    sizes = [p.numel() for p in hf.parameters()]
    assert plan.parameters == sum(sizes)
    assert (plan.dtype, plan.bytes) == ("bfloat16", 2 * sum(sizes))
    assert plan.stored == {"BF16": 2 * sum(sizes)}
    assert (plan.n_layers, plan.d_model, plan.d_vocab) == (3, 32, 99)
    with torch.no_grad(), _Held(hf) as held:
        hf(input_ids=torch.zeros((1, TOKENS), dtype=torch.long), use_cache=False)
    # Where numbers decide whether a mask is needed, one is made.
    assert plan.pass_bytes == pytest.approx(held.most, rel=0.05)
    assert held.most > 2 * TOKENS * 99
    assert ll.estimate(folder, tokens=TOKENS, dtype="float32").bytes == 2 * plan.bytes


def test_no_weight_is_read(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(whole[: 8 + size])  # the header, and no more
    cut, plain = ll.estimate(tmp_path), ll.estimate(folder)
    assert (cut.stored, cut.bytes) == (plain.stored, plain.bytes)


def test_what_does_not_fit_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ll.ModelError, match="could not be loaded"):
        ll.estimate(tmp_path)
    with pytest.raises(ll.InputError, match="tokens is 0"):
        ll.estimate(folder, tokens=0)
    with pytest.raises(ll.InputError, match="length"):
        ll.estimate(folder, length=3)
    with pytest.raises(ll.InputError, match="Give the model after the analysis"):
        ll.estimate("logit_lens")
