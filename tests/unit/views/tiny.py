"""A tiny random Llama with a word for each token, and a front end's side of a patch bench."""

from __future__ import annotations

import threading
import time
from functools import cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import layerlens as ll
from layerlens.model.lensmodel import LensModel
from layerlens.views import PatchView
from layerlens.views.live import LiveView

from .fakes import until

N_LAYERS = 4
CLEAN, CORRUPT = "w1 w2 w3 w4", "w1 w2 w9 w4"


@cache
def tiny_llama() -> LensModel:
    """Return the model; heads 4, key-value heads 2, vocabulary 64, random weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = ["<unk>", "<b>bold</b>"] + [f"w{i}" for i in range(62)]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=N_LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.3,
    )  # fmt: skip
    return ll.load(LlamaForCausalLM(config).eval(), tokenizer, name="tiny")


class Pace:
    """Slows the blocks of a model down, on the threads of widgets only."""

    def __init__(self, model: LensModel) -> None:
        self.seconds = 0.0
        layers: Any = model.hf.get_submodule("model.layers")
        self._handles = [layer.register_forward_pre_hook(self._slow) for layer in layers]

    def _slow(self, *inputs: Any) -> None:
        if threading.current_thread().name.startswith("layerlens"):
            time.sleep(self.seconds)

    def remove(self) -> None:
        """Run as fast as before."""
        for handle in self._handles:
            handle.remove()


def patch(layer: int, position: int | None, **more: Any) -> dict[str, Any]:
    """Return a patch of the state before a block, as the front end writes it."""
    origin = {"layer": layer, "position": position}
    return {
        "site": "resid_pre", "layer": layer, "position": position, "head": None, "from": origin,
        "on": True, **more,
    }  # fmt: skip


def ask(view: LiveView, method: str, rid: int = 1, **params: Any) -> tuple[Any, list[bytes]]:
    """Send a request and return its reply: the result or the error, and the buffers."""
    view.comm.custom(kind="request", rid=rid, method=method, params=params)
    return answer(view, rid)


def answer(view: LiveView, rid: int) -> tuple[Any, list[bytes]]:
    """Wait for the reply to a request."""
    found: list[tuple[Any, list[bytes]]] = []

    def look() -> bool:
        both = view.comm.customs("reply") + view.comm.customs("error")
        found[:] = [(c, b) for c, b in both if c["rid"] == rid]
        return bool(found)

    until(look, 10)
    content, buffers = found[0]
    return content.get("result", content.get("message")), buffers


def grid(view: PatchView, run: int, name: str = "recovered") -> np.ndarray:
    """Put an array of a run together from its frames, as the front end does."""
    meta = [m for m in view.comm.updates("meta") if m.get("run") == run][-1]
    whole = np.full((len(meta["rows"]), len(meta["columns"])), np.nan, np.float32)
    for content, buffers in view.comm.customs("frame"):
        for header, buffer in zip(content["arrays"], buffers, strict=True):
            if content["run"] == run and header["name"] == name:
                assert header["dims"] == ["layer", meta["by"]]
                assert header["dtype"] == "float32"
                box = tuple(
                    slice(s, s + n) for s, n in zip(header["start"], header["shape"], strict=True)
                )
                whole[box] = np.frombuffer(buffer, "<f4").reshape(header["shape"])
    return whole
