"""One kernel for all tests of this folder, with a tiny random model in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .front_end import FrontEnd

SET_UP = """
import threading, time
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
import layerlens as ll
from layerlens.views import bundle
bundle.script, bundle.style = (lambda view: "export default {}"), (lambda: "")

words = ["<unk>", "<b>bold</b><script>alert(1)</script>"] + [f"w{i}" for i in range(62)]
core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=6,
                     num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64)
hf = LlamaForCausalLM(config).eval()
model = ll.load(hf, tokenizer, name="tiny")

pace = {"seconds": 0.0}
def slow(*inputs):  # slows the widgets' runs only
    if threading.current_thread().name.startswith("layerlens"):
        time.sleep(pace["seconds"])
for block in hf.model.layers:
    block.register_forward_pre_hook(slow)
"""


@pytest.fixture(scope="session")
def kernel() -> Iterator[FrontEnd]:
    front_end = FrontEnd()
    try:
        front_end.run(SET_UP, seconds=120)
        yield front_end
    finally:
        front_end.close()


@pytest.fixture
def view(kernel: FrontEnd) -> Iterator[str]:
    """A view whose first run is done; its comm id."""
    kernel.run("pace['seconds'] = 0.0; view = ll.LensView(model, 'w1 w2 w3')")
    comm = kernel.last_opened()
    kernel.until_state(comm, "done", run=1)
    yield comm
    kernel.run("pace['seconds'] = 0.0; view.close()")
