"""Edits as a user writes them: checked, as JSON, as code; and every sentence that refuses one."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.run.edit_lists import code_of

from .plain import IDS, OTHER, tiny

EDITS = [
    ll.edit("z.7.3", "zero", position=4),
    ll.edit(("resid_pre", 5), "scale", 0.5, position=slice(1, None)),
    ll.edit("blocks.5.hook_mlp_out", "add", [0.1, -2, 3], position=["France", -1]),
    ll.edit("mlp_post", "set", torch.tensor([1.5, 0.1]), layer=[-1, 2], neuron=[3, 17]),
    ll.edit("v", "mean", ["one text", "another"], layer=range(3, 6), head=[0, 2]),
    ll.edit("z.1", "mean", np.ones((2, 4), dtype=np.float32)),
    ll.edit("resid_post.2", "resample", [1, 2, 3]),
    ll.edit("resid_pre.2", "set", ll.source("Rome", "resid_post.9", position=-1), position=-1),
    ll.edit("k.0", "set", ll.source([{"role": "user", "content": "hi"}], "k", 1), position=0),
    ll.edit("resid_mid.0", "project_out", [[1, 0.5], [0, 1]]),
    ll.edit("attn_out.0", "freeze"),
    ll.edit("attn_scores", "block", layer=[0, 1], position=range(3, 5), key="Rome"),
    ll.edit("embed", "add", 1, steps=[3, 0]),
    ll.edit("normalized", "scale", 2, position=-1, steps="all"),
    ll.edit("resid_post.1", "add", torch.ones(2, dtype=torch.bfloat16), always=True),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.kind + "-" + edit.op)
def test_json_and_code_make_the_edit_again(edit: ll.Edit) -> None:
    text = json.dumps(edit.to_dict(), allow_nan=False)
    again = ll.Edit.from_dict(json.loads(text))
    assert again.to_dict() == edit.to_dict() and again.code == edit.code
    assert ll.edits_from_json(ll.edits_to_json([edit, edit]))[1].to_json() == edit.to_json()
    built = eval(edit.code, {"ll": ll})
    assert built.code == edit.code == repr(edit)
    assert eval(code_of([edit, edit]), {"ll": ll})[1].code == edit.code


def test_tensors_keep_their_dtype_in_json() -> None:
    value = torch.tensor([[0.1, 0.2]], dtype=torch.bfloat16)
    again = ll.Edit.from_dict(ll.edit("resid_post.1", "add", value).to_dict()).value
    assert again.dtype == torch.bfloat16 and torch.equal(again, value)
    assert ll.edit("resid_post.1", "add", [0.1]).value.dtype == torch.float64


def test_code_reads_like_what_was_written() -> None:
    assert EDITS[0].code == "ll.edit('z.7.3', 'zero', position=4)"
    assert EDITS[1].code == "ll.edit('resid_pre.5', 'scale', 0.5, position=slice(1, None, None))"
    assert EDITS[4].code == (
        "ll.edit('v', 'mean', ['one text', 'another'], layer=range(3, 6), head=[0, 2])"
    )
    assert EDITS[-1].code == "ll.edit('resid_post.1', 'add', [1.0, 1.0], always=True)"


def test_an_edit_is_frozen_with_what_it_holds() -> None:
    value = torch.ones(3)
    where = [1, 2]
    edit = ll.edit("resid_post.1", "add", value, position=where)
    value[0] = 5
    where.append(9)
    assert edit.value[0] == 1 and edit.position == [1, 2]
    with pytest.raises(FrozenInstanceError):
        edit.op = "set"  # type: ignore[misc]


def test_a_source_in_another_model_is_code_but_no_json() -> None:
    edit = ll.edit("resid_post.1", "set", ll.source(OTHER, model=tiny("gpt2")))
    assert edit.code.endswith("ll.source([9, 2, 71, 44, 30, 12], model=ll.load('tiny gpt2')))")
    with pytest.raises(ll.InputError, match=r"tiny gpt2.*cannot be written as JSON"):
        edit.to_dict()


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("resid_pots.1", "zero"), {}, "Did you mean 'resid_post'"),
        (("z.1", "zeros"), {}, "did you mean 'zero'"),
        (("z", "zero"), {}, r"z needs a layer: write 'z.0', or give layer="),
        (("z.1", "zero"), {"layer": 2}, "given twice, as 1 and as 2"),
        (("z.1.2", "zero"), {"head": 0}, "given twice, as 2 and as 0"),
        (("embed", "zero"), {"layer": 0}, "embed exists once"),
        (("resid_post.1", "zero"), {"head": 0}, "resid_post has no heads"),
        (("z.1", "zero"), {"head": -1}, "head -1 does not exist"),
        (("z", "zero"), {"layer": "3"}, "layer is a whole number"),
        (("z", "zero"), {"layer": []}, "layer is empty"),
        (("mlp_post.1", "zero"), {"neuron": 1.5}, "neuron is a whole number"),
        (("z.1", "zero", 1), {}, "zero takes no value"),
        (("z.1", "set"), {}, "set needs a value"),
        (("z.1", "add", float("nan")), {}, "expected a finite number"),
        (("z.1", "add", [1.0, float("inf")]), {}, "NaN, infinity"),
        (("z.1", "add", "text"), {}, "number, a list, an array, a tensor or a source, not str"),
        (("z.1", "add", [[1, 2], [3]]), {}, "number, a list, an array"),
        (("z.1", "project_out", 3), {}, "takes a direction"),
        (("z.1", "mean", 3), {}, "A text is a string"),
        (("z.1", "mean", ll.source("a")), {}, "use resample"),
        (("z.1", "resample", torch.ones(3)), {}, "not a tensor of numbers"),
        (("z.1", "resample", []), {}, "A text is a string"),
        (("pattern.1", "mean", "a"), {}, "makes no sense over the keys of pattern"),
        (("pattern.1", "block"), {"key": 0}, "its site is attn_scores, not pattern"),
        (("z.1", "zero"), {"key": 0}, "z has no keys"),
        (("pattern.1", "zero"), {"neuron": 0}, "name them with key="),
        (("z.1", "zero"), {"steps": "some"}, "a list of numbers or 'all'"),
        (("z.1", "zero"), {"steps": -1}, "steps -1 does not exist"),
        (("z.1", "zero"), {"steps": 0, "always": True}, "leave out position and steps"),
        (("z.1", "freeze"), {"steps": 0}, "freeze.*generated tokens"),
        (("z.1", "zero"), {"position": 1.5}, "position is a whole number"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ll.InputError, match=sentence):
        ll.edit(*arguments, **options)


@pytest.mark.parametrize(
    ("family", "edit", "sentence"),
    [
        ("llama", ll.edit("resid_post.3", "zero"), "layers 0 to 2"),
        ("llama", ll.edit("z", "zero", layer=range(1, 5)), "layers 0 to 2"),
        ("gpt_neox", ll.edit("resid_mid.1", "zero"), "attention and MLP run in parallel"),
        ("llama", ll.edit("result.1", "zero"), "edit z .* or attn_out"),
        ("llama", ll.edit("z.1.4", "zero"), r"there are 4 query heads \(0 to 3\)"),
        ("llama", ll.edit("v.1", "zero", head=[0, 2]), r"there are 2 key-value heads \(0 to 1\)"),
        ("llama", ll.edit("mlp_post.1", "zero", neuron=1000), "Entry 1000 of .* does not exist"),
        ("llama", ll.edit("z.1", "zero", position=6), "Position 6 does not exist"),
        ("llama", ll.edit("z.1", "zero", position=slice(9, 10)), "names no position"),
        ("llama", ll.edit("attn_scores.1", "block", key=9), "Position 9 does not exist"),
        (
            "llama",
            ll.edit("resid_post.1", "set", torch.ones(2, 32), position=[0, 1, 2]),
            r"shape \[2, 32\]; expected \[3, 32\] \(position, width\)",
        ),
        (
            "llama",
            ll.edit("z.1", "set", torch.ones(9)),
            r"expected \[6, 4, 8\] \(position, head, width\)",
        ),
        (
            "llama",
            ll.edit("pattern.1.0", "set", torch.ones(5)),
            r"expected \[6, 6\] \(position, key\)",
        ),
        ("llama", ll.edit("resid_post.1", "project_out", torch.ones(9)), r"expected \[32\]"),
        ("llama", ll.edit("resid_post.1", "project_out", torch.zeros(32)), "are zero or depend"),
        ("llama", ll.edit("resid_post.1", "project_out", torch.ones(2, 32)), "are zero or depend"),
        ("llama", ll.edit("z.1", "resample", OTHER[:4]), "has 4 tokens and the edited one 6"),
        ("llama", ll.edit("z.1", "resample", OTHER[:4], position=5), "text has 4 tokens"),
        ("llama", ll.edit("z.1", "resample", [OTHER, IDS]), "A source is one text"),
        (
            "llama",
            ll.edit("z.1", "set", ll.source(OTHER, position=[0, 1]), position=[0, 1, 2]),
            "2 positions for 3 edited ones",
        ),
        (
            "llama",
            ll.edit("resid_post.1", "set", ll.source(OTHER, "mlp_post")),
            r"expected \[6, 32\]",
        ),
        ("llama", ll.edit("resid_post.1", "set", ll.source(OTHER, "z.0.7")), "4 query heads"),
        ("llama", ll.edit("z.1", "zero", steps=0), "this run has none"),
        ("llama", ll.edit("attn_scores.1", "block"), "Position 0 would see no key in head 0"),
        ("bloom", ll.edit("q.1", "zero"), "only v, attn_scores, pattern and z can be changed"),
        ("mamba", ll.edit("z.1", "zero"), "one sublayer only"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:60],
)
def test_what_does_not_fit_the_model_or_text_is_refused(
    family: str, edit: ll.Edit, sentence: str
) -> None:
    with pytest.raises(ll.InputError, match=sentence):
        ll.run(tiny(family), IDS, edit)


def test_edges_of_several_edits_count_together() -> None:
    model = tiny("llama")
    first = ll.edit("attn_scores.1.2", "block", position=2, key=[0, 1])
    ll.run(model, IDS, [first, ll.edit("attn_scores.1.1", "block", position=2, key=2)])
    with pytest.raises(ll.InputError, match="Position 2 would see no key in head 2 of layer 1"):
        ll.run(model, IDS, [first, ll.edit("attn_scores.1.2", "block", position=2, key=2)])
    window = tiny("gemma2")  # in layer 0, position 5 sees 3, 4 and 5 only
    ll.run(window, IDS, ll.edit("attn_scores.0", "block", position=5, key=[3, 4]))
    with pytest.raises(ll.InputError, match="Position 5 would see no key"):
        ll.run(window, IDS, ll.edit("attn_scores.0", "block", position=5, key=[3, 4, 5]))


def test_what_is_no_edit_is_refused() -> None:
    with pytest.raises(ll.InputError, match=r"make each edit with ll\.edit"):
        ll.run(tiny("gpt2"), IDS, [("z.1", "zero")])
    for text, sentence in [
        ("{", "not JSON"),
        ("3", "a list of objects"),
        ("[3]", "an object"),
        ('[{"site": "z.1"}]', "'site' or 'op' is missing"),
        ('[{"site": "z.1", "op": "zero", "heads": 1}]', "'heads' is not known"),
        ('[{"site": "z.1", "op": "add", "value": {"tensor": [1], "dtype": "x"}}]', "no dtype"),
        ('[{"site": "z.1", "op": "set", "value": {"source": {"site": "z"}}}]', "has text"),
    ]:
        with pytest.raises(ll.InputError, match=sentence):
            ll.edits_from_json(text)
    with pytest.raises(ll.InputError, match=r"one from ll\.load"):
        ll.source("a", model=3)


def test_a_site_that_never_fires_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LensModel.wrap(tiny_model("llama"), None, prove=False)
    edit = ll.edit("mlp_post.1", "zero")
    ll.run(model, IDS, edit)
    mlp: Any = model.hf.model.layers[1].mlp
    monkeypatch.setattr(mlp, "down_proj", torch.nn.Identity())
    monkeypatch.setattr(mlp, "forward", lambda x: torch.zeros_like(x))
    with pytest.raises(ll.SiteError, match="never fired"):
        ll.run(model, IDS, edit)
    with pytest.raises(ll.SiteError, match="never fired"):
        model.generate(IDS, 3, edit)
    with pytest.raises(ll.SiteError, match="never fired"), model.edited(edit):
        model.hf(torch.tensor([IDS]))
    assert not any(module._forward_pre_hooks for module in model.hf.modules())


def test_words_name_positions() -> None:
    model = ll.load("toy:induction")
    word = model.token_string(3)
    ids = [2, 3, 4, 5]
    named = ll.run(model, ids, ll.edit("resid_post.0", "zero", position=word)).logits
    assert torch.equal(
        named, ll.run(model, ids, ll.edit("resid_post.0", "zero", position=1)).logits
    )
