"""The begin token reaches everything that an analysis feeds, or nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.model.lensmodel import LensModel

from .small_calls import NAMES, filled

BOS, WORDS, SIZE = 7, range(10, 19), 60
"""Texts are of these words; what looks at a model with made-up ids uses others too."""
ONE, OTHER, THIRD = "w10 w11 w12 w10 w13", "w10 w14 w12 w10 w13", "w15 w11 w12 w16 w13"
LIST = [ONE, OTHER, THIRD, "w17 w11 w18 w16 w10"]
SOURCE = ll.edit("resid_post.0", "set", ll.source(THIRD, position=-1), position=-1)
MEAN = ll.edit("mlp_out.1", "mean", [OTHER, THIRD])
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "ablate_sweep": ((ONE,), {"how": "mean", "reference": [OTHER, THIRD]}),
    "aligned_pairs": ((LIST, [OTHER, ONE, ONE, THIRD]), {}),
    "attention_probe": ((LIST,), {"arcs": [[(2, 1)]] * 4, "folds": 3}),
    "back_patch": ((ONE,), {"into": THIRD}),
    "bigram_layers": ((LIST,), {"alone": 1}),
    "causal_trace": ((ONE,), {"subject": "w11", "samples": 2}),
    "compare_models": ((LIST,), {"other": None, "unit": "text", "metric": "rsa"}),
    "concepts": ((LIST * 2,), {"r": 2, "designs": 2, "explain": 1, "test": 0.5}),
    "contrast_layers": ((ONE,), {"max_new_tokens": 1, "edits": [SOURCE, MEAN]}),
    "cross_model_patch": ((ONE,), {"other": None}),
    "early_exit": ((LIST,), {}),
    "neuron_modules": ((LIST, 1), {"draws": 1, "modules": 1, "neighbours": 3}),
    "neuron_path": ((ONE,), {"steps": 1, "draws": 1, "others": [OTHER]}),
    "frequency_tags": ((LIST * 3,), {"words": 5, "runs": 1, "draws": 40}),
    "generation_lens": ((ONE,), {"max_new_tokens": 1, "edits": [SOURCE, MEAN]}),
    "facets": ((LIST,), {"draws": 1}),
    "feature_circuit": ((ONE,), {"transcoders": None}),
    "fit_lens": ((LIST,), {"positions_skipped": 1}),
    "train_sae": ((LIST,), {"test": 0.5, "batch": 4, "k": 2}),
    "train_transcoder": ((LIST,), {"test": 0.5, "batch": 4, "k": 2}),
    "sae_metrics": ((LIST,), {"sae": None}),
    "features": ((ONE,), {"sae": None}),
    "feature": ((LIST,), {"sae": None, "k": 2, "prompt": ONE, "new_tokens": 1}),
    "lens_quality": ((LIST,), {"positions_skipped": 1}),
    "inflection_layers": ((LIST,), {}),
    "interaction_graph": ((LIST,), {"top": 1, "draws": 1, "shuffles": 1}),
    "interaction_basis": ((LIST,), {"kept": [1], "draws": 1, "untrained": False}),
    "invariance": ((LIST,), {"views": 2}),
    "knockout": ((ONE,), {"sources": {"subject": "w11"}}),
    "language_track": ((LIST,), {"sets": {"few": ["w10", "w11"]}}),
    "linear_interpreter": ((ONE,), {"singular": 0, "draws": 1}),
    "layer_mix": ((LIST * 3,), {"labels": [*"abab"] * 3, "folds": 3}),
    "layer_gradients": (([ONE, OTHER],), {"responses": " w15"}),
    "layer_metrics": ((ll.texts(LIST),), {}),
    "layer_swap": ((LIST,), {"other": None}),
    "lens_difference": ((ONE,), {"other": OTHER}),
    "mode_connectivity": ((LIST,), {"other": None, "points": 3}),
    "logit_lens": ((ONE,), {"edits": [SOURCE, MEAN]}),
    "relevance": ((ONE,), {"rule": "integrated", "baseline": OTHER, "steps": 16}),
    "probe": (
        (LIST * 3,),
        {"labels": [*"abab"] * 3, "folds": 3, "other_texts": [ONE, OTHER], "other_labels": [*"ab"]},
    ),
    "probe_conditions": (
        (LIST * 3,),
        {"labels": [*"abab"] * 3, "folds": 3, "weight_noise": (), "bits": 8},
    ),
    "sticky_tokens": (
        ([*LIST, *(f"w{first} w18" for first in WORDS)],),
        {"pooling": "mean", "candidates": 2, "insertions": 1, "verify_pairs": 2},
    ),
    "stitch": ((LIST,), {"other": None, "control": "shuffled"}),
    "probe_steering": ((ONE,), {"probe": None}),
    "state_map": ((LIST * 3,), {"other_texts": [ONE]}),
    "mlp_decomposition": ((LIST,), {}),
    "sentence_scores": (
        (LIST,),
        {"others": [OTHER, ONE, ONE, THIRD], "scores": [1, 2, 3, 4], "metrics": "curvature"},
    ),
    "steering": (([ONE, OTHER], [OTHER, THIRD]), {"text": ONE, "neutral": THIRD}),
    "token_dispositions": ((ONE,), {"lens": None}),
    "neural_collapse": ((ll.texts([ONE, OTHER, THIRD, ONE], label=[0, 1, 1, 0]),), {}),
    "out_of_distribution": ((4 * LIST, LIST), {}),
    "suppression": (([ONE, OTHER],), {"neutral": THIRD}),
    "top_texts": ((LIST, 1, [0, 1]), {}),
}
"""Calls that read texts of their options too."""
READ_TEXTS = [name for name in NAMES if registry.get(name).inputs]


@pytest.fixture(scope="module")
def model() -> LensModel:
    words = {"<unk>": 0, "<pad>": 1, "<s>": BOS}
    words |= {f"w{i}": i for i in range(SIZE) if i not in words.values()}
    core = Tokenizer(models.WordLevel(words, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", bos_token="<s>"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=SIZE,
        max_position_embeddings=64,
        bos_token_id=BOS,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    return LensModel.wrap(LlamaForCausalLM(config).eval(), tokenizer, name="words", prove=False)


@contextmanager
def fed(model: LensModel) -> Iterator[list[list[int]]]:
    """Every row of ids that the model is called with, but those that no text has."""
    rows: list[list[int]] = []

    def see(module: Any, args: Any) -> None:
        rows.extend(
            row for row in args[0].tolist() if {*row} & {*WORDS} and {*row} <= {BOS, *WORDS}
        )

    hook = model.hf.get_input_embeddings().register_forward_pre_hook(see)
    try:
        yield rows
    finally:
        hook.remove()


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("name", READ_TEXTS)
def test_every_text_of_an_analysis_is_read_alike(
    model: LensModel, name: str, add_bos: bool
) -> None:
    analysis = registry.get(name)
    texts, options = CALLS.get(name, ((ONE, OTHER)[: len(analysis.inputs)], {}))
    given = filled(options, model)
    with fed(model) as rows:
        analysis(model, *texts, **given, add_bos=add_bos)
    assert rows
    assert all((row[0] == BOS) is add_bos and row.count(BOS) == add_bos for row in rows)


@pytest.mark.parametrize("add_bos", [True, False])
def test_calls_that_are_no_analysis_take_it_too(model: LensModel, add_bos: bool) -> None:
    with fed(model) as rows:
        ll.run(model, ONE, [SOURCE, MEAN], add_bos=add_bos)
        ll.record(model, ONE, "resid_post", add_bos=add_bos)
        model.run_with_cache(ONE, "blocks.0.hook_resid_post", add_bos=add_bos)
        ll.run_layers(model, ONE, [0, 2], add_bos=add_bos)
    assert len(rows) == 6
    assert all((row[0] == BOS) is add_bos for row in rows)


def test_a_source_may_be_read_otherwise_and_says_so(model: LensModel) -> None:
    source = ll.source(THIRD, position=-1, add_bos=True)
    edit = ll.edit("resid_post.0", "set", source, position=-1)
    with fed(model) as rows:
        ll.run(model, ONE, edit, add_bos=False)
    assert sorted(row[0] == BOS for row in rows) == [False, True]
    assert source.code.endswith("add_bos=True)")
    assert ll.Edit.from_dict(edit.to_dict()).value.code == source.code


@pytest.mark.parametrize("add_bos", [None, True, False])
def test_a_model_is_like_itself(model: LensModel, add_bos: bool | None) -> None:
    options = {"other": model, "unit": "text", "metric": "rsa", "add_bos": add_bos}
    found = ll.compare_models(model, LIST, **options).data.similarity.values
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)


def test_to_what_a_chat_template_made_nothing_is_added(model: LensModel) -> None:
    chats = [[{"role": "user", "content": text}] for text in LIST]
    with fed(model) as rows:
        ll.compare_models(model, chats, other=model, unit="text", metric="rsa")
        ll.invariance(model, chats, views=2)
    assert not any(BOS in row for row in rows)
    with fed(model) as rows:
        ll.compare_models(model, chats, other=model, unit="text", metric="rsa", add_bos=True)
    assert all(row[0] == BOS for row in rows)
