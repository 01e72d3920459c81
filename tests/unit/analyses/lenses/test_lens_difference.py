"""Two lenses on one grid, against lenses run one by one and against what must be zero."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import layerlens as ll
from layerlens.errors import InputError, MemoryLimitError
from layerlens.model.lensmodel import LensModel

TEXT, SECOND = "w1 w2 w3 w4", "w1 w2 w9 w5"
LONG = " ".join(f"w{i}" for i in range(24))


def made(seed: int, words: list[str], layers: int = 3, name: str = "tiny") -> LensModel:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
        initializer_range=0.4,
    )  # fmt: skip
    return ll.load(LlamaForCausalLM(config).eval(), tokenizer, name=name)


WORDS = ["<unk>"] + [f"w{i}" for i in range(30)]


@pytest.fixture(scope="module")
def model() -> LensModel:
    return made(0, WORDS)


@pytest.fixture(scope="module")
def twin() -> LensModel:
    return made(1, WORDS, name="twin")


def logits(model: LensModel, text: str, point: str) -> torch.Tensor:
    """[position, V] of a state after a block, with nothing but the model's own modules."""
    hf: Any = model.hf
    kept: list[torch.Tensor] = []
    layer = hf.model.layers[int(point.split("_")[0])]
    handle = layer.register_forward_hook(
        lambda m, a, out: kept.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    with torch.no_grad():
        hf(model.tokens(text).ids)
        found: torch.Tensor = hf.lm_head(hf.model.norm(kept[0]))[0]
    handle.remove()
    return found


def test_the_same_model_and_text_differ_nowhere(model: LensModel) -> None:
    for other in (model, TEXT, ll.edit("resid_post", "scale", 1.0, layer=1)):
        data = ll.lens_difference(model, TEXT, other=other, tracked=["w3"]).data
        for name in ("change", "kl_between", "tracked_change"):
            assert np.abs(data[name].values).max() == 0
        for name in ("token_id", "probability", "entropy", "rank", "settle_layer"):
            np.testing.assert_array_equal(data[name], data[f"other_{name}"])


def test_each_side_is_the_lens_of_that_run(model: LensModel, twin: LensModel) -> None:
    edit = ll.edit("attn_out", "zero", layer=0)
    alone = ll.logit_lens(model, TEXT, tracked=["w3"]).data
    seconds = {
        "model": (twin, ll.logit_lens(twin, TEXT, tracked=["w3"])),
        "text": (SECOND, ll.logit_lens(model, SECOND, tracked=["w3"])),
        "edits": (edit, ll.logit_lens(model, TEXT, tracked=["w3"], edits=edit)),
    }
    for kind, (other, expected) in seconds.items():
        result = ll.lens_difference(model, TEXT, other=other, tracked=["w3"])
        data = result.data
        assert data.attrs["other_kind"] == kind
        assert result.checks.ok
        for name in alone.data_vars:
            np.testing.assert_allclose(data[name], alone[name], atol=1e-5, err_msg=name)
            np.testing.assert_allclose(
                data[f"other_{name}"], expected.data[name], atol=1e-5, err_msg=f"{kind} {name}"
            )
        moved = expected.data.tracked_probability - alone.tracked_probability
        np.testing.assert_allclose(data.tracked_change, moved, atol=1e-5)


def test_differences_are_those_of_the_models_own_logits(model: LensModel, twin: LensModel) -> None:
    data = ll.lens_difference(model, TEXT, other=twin).data
    for point in ("0_post", "1_post"):
        mine, theirs = (logits(m, TEXT, point).log_softmax(-1) for m in (model, twin))
        kl = (mine.exp() * (mine - theirs)).sum(-1)
        np.testing.assert_allclose(data.kl_between.sel(point=point), kl, atol=1e-5)
        top = mine.argmax(-1, keepdim=True)
        change = (theirs.exp() - mine.exp()).gather(-1, top)[:, 0]
        np.testing.assert_allclose(data.change.sel(point=point), change, atol=1e-6)


def test_patching_all_of_a_text_gives_the_rows_of_the_other_text(model: LensModel) -> None:
    edit = ll.edit("resid_post", "set", ll.source(SECOND), layer=1)
    patched = ll.lens_difference(model, TEXT, other=edit).data
    text = ll.lens_difference(model, TEXT, other=SECOND).data
    after = ["1_post", "2_mid", "2_post", "final"]
    for name in ("change", "kl_between", "other_probability"):
        np.testing.assert_allclose(
            patched[name].sel(point=after), text[name].sel(point=after), atol=1e-5
        )
    before = patched.sel(point=["embed", "0_mid", "0_post", "1_mid"])
    assert float(np.abs(before.kl_between).max()) == 0
    assert float(text.kl_between.sel(point="embed").max()) > 0.01


def test_different_vocabularies_are_compared_by_the_text_of_their_tokens(model: LensModel) -> None:
    words = ["<unk>", *(f"v{i}" for i in range(5)), *WORDS[:0:-1]]
    other = made(2, words, name="reversed")
    result = ll.lens_difference(model, TEXT, other=other, tracked=["w3"])
    data = result.data
    mine, theirs = (logits(m, TEXT, "1_post") for m in (model, other))
    order = [words.index(word) for word in WORDS]
    a, b = mine.log_softmax(-1), theirs[:, order].log_softmax(-1)
    np.testing.assert_allclose(
        data.kl_between.sel(point="1_post"), (a.exp() * (a - b)).sum(-1), atol=1e-5
    )
    p = theirs.softmax(-1)[:, order]
    change = (p - mine.softmax(-1)).gather(-1, mine.argmax(-1, keepdim=True))[:, 0]
    np.testing.assert_allclose(data.change.sel(point="1_post"), change, atol=1e-6)
    best = theirs.argmax(-1).tolist()
    named = [WORDS.index(words[i]) if words[i] in WORDS else -1 for i in best]
    assert data.other_token_id.sel(point="1_post")[:, 0].values.tolist() == named
    assert any("vocabularies differ" in note for note in json.loads(data.attrs["notes"]))


def _cases() -> list[tuple[Any, str]]:
    longer = made(3, WORDS, layers=4, name="deep")
    cut = made(4, [word for word in WORDS if word != "w3"], name="cut")
    return [
        (None, "nothing to compare with"),
        ("w1 w2", "4 and 2 tokens"),
        (longer, "3 blocks .* deep 4"),
        (cut, "their positions cannot be compared"),
        (["w1 w2 w3 w4", "w1 w2 w3 w4"], "1 texts and 2 others"),
    ]


def test_what_cannot_be_laid_over_is_refused_in_words(model: LensModel) -> None:
    for other, words in _cases():
        with pytest.raises(InputError, match=words):
            ll.lens_difference(model, TEXT, other=other)
    ids, other = model.tokens(TEXT).ids[0].tolist(), made(2, WORDS[::-1], name="reversed")
    with pytest.raises(InputError, match="as a string"):
        ll.lens_difference(model, ids, other=other)
    with pytest.raises(MemoryLimitError, match="both runs"):
        ll.lens_difference(model, LONG, other=LONG, memory_limit=80_000)


def test_several_texts_and_their_others(model: LensModel) -> None:
    both = ll.lens_difference(model, [TEXT, SECOND], other=[SECOND, TEXT])
    for index, (text, other) in enumerate([(TEXT, SECOND), (SECOND, TEXT)]):
        alone = ll.lens_difference(model, text, other=other).data
        np.testing.assert_allclose(both.data.kl_between[index], alone.kl_between, atol=1e-5)
    again = eval(both.code, {"ll": ll, "model": model})
    np.testing.assert_array_equal(again.data.change, both.data.change)
