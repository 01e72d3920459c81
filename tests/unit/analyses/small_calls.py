"""A small call of every analysis, in token ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from layerlens.analyses.contract import registry
from layerlens.analyses.contributions.value_paths import Node
from layerlens.analyses.features.dictionaries.dictionary import Form
from layerlens.corpus.texts import texts as labelled
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted, ModelFacts

from .copies import copy_of

ONE, OTHER = [5, 9, 1, 3, 7, 5], [5, 9, 1, 4, 7, 5]
LIST = [ONE, OTHER, [4, 8, 1, 6, 2, 3]]
"""Each with one token 1, which is the mask of `tests.unit.analyses.masked`."""
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "aligned_pairs": ((LIST, [OTHER, ONE, LIST[2]]), {}),
    "attention_probe": ((LIST * 2,), {"arcs": [[(2, 1)]] * 6, "folds": 3}),
    "attribution_patch": ((ONE, OTHER), {"steps": 8}),
    "bigram_layers": ((LIST,), {"alone": 1}),
    "causal_trace": ((ONE,), {"subject": [3]}),
    "checkpoint_difference": ((), {"other": None}),
    "compare_models": ((LIST,), {"other": None}),
    "delta_signs": ((), {"others": None}),
    "edge_attribution": ((ONE, OTHER), {"steps": 1, "verify": 1}),
    "facets": ((LIST,), {"draws": 1}),
    "feature_circuit": ((ONE,), {"transcoders": None}),
    "fit_lens": ((LIST,), {"positions_skipped": 1}),
    "train_sae": ((LIST,), {"test": 0.5, "batch": 4, "k": 2}),
    "train_transcoder": ((LIST,), {"test": 0.5, "batch": 4, "k": 2}),
    "sae_metrics": ((ONE,), {"sae": None}),
    "features": ((ONE,), {"sae": None}),
    "feature": ((LIST,), {"sae": None, "k": 2, "strengths": [1], "new_tokens": 2}),
    "lens_quality": ((ONE,), {"positions_skipped": 1}),
    "concepts": ((LIST * 2,), {"r": 2, "designs": 2, "explain": 1, "test": 0.5}),
    "contrast_layers": ((ONE,), {"max_new_tokens": 3}),
    "cross_model_patch": ((ONE,), {"other": None}),
    "fourier": (
        (),
        {"numbers": [3, 4, 5, 6, 7], "prompt": ["a", 17, "b", 18], "pairs": 4, "draws": 2},
    ),
    "frequency_tags": (([[5, 9, 4, 7], [3, 8, 6, 2], [9, 3, 5, 4]] * 4,), {"runs": 1, "draws": 40}),
    "generation_lens": ((ONE,), {"max_new_tokens": 3}),
    "cross_layer_sensitivity": ((ONE,), {"layers": [0, 1]}),
    "hessian": ((ONE,), {"draws": 2}),
    "head_scores": ((), {"length": 8}),
    "head_roles": ((), {"length": 8}),
    "inflection_layers": ((LIST,), {}),
    "information_plane": ((), {"inputs": LIST, "labels": [0, 1, 0], "shuffles": 2}),
    "interaction_graph": ((LIST * 2,), {"top": 1, "draws": 1, "shuffles": 1}),
    "interaction_basis": ((LIST * 2,), {"kept": [1], "draws": 1, "untrained": False}),
    "invariance": ((LIST,), {"augment": "tokens"}),
    "knockout": ((ONE,), {"sources": {"first": [1]}}),
    "neural_collapse": ((labelled([*LIST, ONE], label=[0, 1, 1, 0]),), {}),
    "out_of_distribution": ((4 * LIST, LIST), {}),
    "neuron_modules": (([*LIST, *LIST], 1), {"draws": 1, "modules": 1, "neighbours": 3}),
    "neuron_path": ((ONE,), {"steps": 10, "draws": 1, "others": [OTHER]}),
    "observable": ((), {"weights": {17: 1, 20: -1}}),
    "language_track": ((LIST,), {"sets": {"few": [3, 4], "one": [9]}}),
    "linear_interpreter": ((ONE,), {"singular": 0, "draws": 1}),
    "layer_mix": ((LIST * 4,), {"labels": ["a", "b", "a"] * 4, "folds": 3}),
    "layer_swap": ((LIST,), {"other": None}),
    "lens_difference": ((ONE,), {"other": None}),
    "probe": ((LIST * 4,), {"labels": ["a", "b", "a"] * 4, "folds": 3}),
    "probe_conditions": (
        (LIST * 4,),
        {"labels": ["a", "b", "a"] * 4, "folds": 3, "weight_noise": (), "bits": 8},
    ),
    "probe_steering": ((ONE,), {"probe": None}),
    "state_map": ((LIST * 2,), {"labels": ["a", "b", "a"] * 2}),
    "mlp_decomposition": ((LIST,), {}),
    "mode_connectivity": ((LIST,), {"other": None, "points": 3}),
    "series": ((), {"ask": "block_influence", "texts": [ONE]}),
    "sentence_scores": ((LIST * 4, ["a", "b", "a"] * 4), {"metrics": "curvature"}),
    "steering": (([ONE, OTHER], [OTHER, ONE]), {}),
    "token_dispositions": ((ONE,), {"lens": None}),
    "sticky_tokens": (
        ([*LIST, *([1, first, 10 - first] for first in range(2, 9))],),
        {"pooling": "mean", "candidates": 2, "insertions": 1, "verify_pairs": 2},
    ),
    "stitch": ((LIST,), {"other": None}),
    "top_texts": ((LIST, 1, [0, 1]), {}),
}
"""What analyses need beyond one text, or one for each of their inputs."""


NAMES = [name for name in registry.names() if "experts" not in registry.get(name).needs]
"""Analyses that a model without experts can be asked, as far as it has the rest."""


def arguments(name: str, model: LensModel) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A small call of each analysis."""
    inputs = registry.get(name).inputs
    texts, options = CALLS.get(name, ((ONE, OTHER)[: len(inputs)], {}))
    return texts, filled(options, model)


def filled(options: dict[str, Any], model: LensModel) -> dict[str, Any]:
    """The options of a call, with what is made of the model where they say None."""
    made: dict[str, Callable[[LensModel], Any]]
    made = {"other": lambda given: given, "lens": token_rows, "probe": probe, "sae": small_sae}
    made["transcoders"] = small_transcoders
    made["others"] = tuned
    return {key: made[key](model) if value is None else value for key, value in options.items()}


def tuned(model: LensModel) -> list[LensModel]:
    """Two models with all weights of this one moved."""
    made = [copy_of(model), copy_of(model)]
    for place, one in enumerate(made):
        torch.manual_seed(place)
        for weight in one.hf.parameters():
            weight.data.add_(torch.randn_like(weight))
    return made


def probe(model: LensModel) -> Fitted:
    """A direction after each block, as a probe of two classes has it; drawn, not fitted."""
    torch.manual_seed(0)
    names = [f"{layer}_post.direction" for layer in range(model.n_layers)]
    arrays = {name: torch.nn.functional.normalize(torch.randn(model.d_model), dim=0)
              for name in names}  # fmt: skip
    return Fitted("probe", arrays, ModelFacts.of(model), "")


def token_rows(model: LensModel) -> Fitted:
    """Rows of five tokens, as a Jacobian lens has them; drawn, not fitted."""
    torch.manual_seed(0)
    arrays = {
        "tokens": torch.tensor([3, 4, 5, 6, 7]),
        "controls": torch.tensor(4),
        "0_post.rows": torch.randn(5, model.d_model),
    }
    scores = {"train": {"prompts": 1.0}}
    return Fitted("jacobian_tokens", arrays, ModelFacts.of(model), "", scores=scores)


def small_sae(model: LensModel) -> Fitted:
    """A dictionary of the first block that was not learned."""
    rows = torch.randn(8, model.d_model, generator=torch.Generator().manual_seed(0))
    arrays = {"W_enc": rows.T.contiguous(), "W_dec": rows}
    arrays |= {"b_enc": torch.zeros(8), "b_dec": torch.zeros(model.d_model)}
    options = {"site": "resid_post", "layers": [0], "positions_skipped": 1}
    form = {"dictionary": Form("relu").told()}
    return Fitted("sae", arrays, ModelFacts.of(model), "", options | form)


def small_transcoders(
    model: LensModel, features: int = 12, *, skip: bool = False, cross: bool = False
) -> Fitted:
    """Transcoders of all layers, not learned; `cross` ones write into later layers, too."""
    drawn, width, layers = torch.Generator().manual_seed(0), model.d_model, model.n_layers
    arrays = {
        "W_enc": torch.randn(layers, width, features, generator=drawn) / width**0.5,
        "W_dec": torch.randn(layers, features, width, generator=drawn) / features**0.5,
        "b_enc": torch.full((layers, features), -0.3),
        "b_dec": torch.randn(layers, width, generator=drawn) / 8,
    }
    if skip:
        arrays["W_skip"] = torch.randn(layers, width, width, generator=drawn) / width
    if cross:
        pairs = layers * (layers - 1) // 2
        later = torch.randn(pairs, features, width, generator=drawn) / features**0.5
        arrays["W_dec_later"] = later
    form = Form("relu", normalise="constant_norm_rescale", centred_input=False, only_in=True)
    options = {"site": Node(0, mlp=True).reads(model).kind, "site_out": "mlp_out"}
    options |= {"layers": list(range(layers)), "positions_skipped": 1}
    told = options | {"dictionary": form.told()}
    return Fitted("transcoder", arrays, ModelFacts.of(model), "", told)
