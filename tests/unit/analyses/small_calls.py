"""A small call of every analysis, in token ids."""

from __future__ import annotations

from typing import Any

from layerlens.analyses.contract import registry
from layerlens.model.lensmodel import LensModel

ONE, OTHER = [5, 9, 1, 3, 7, 5], [5, 9, 1, 4, 7, 5]
LIST = [ONE, OTHER, [4, 8, 1, 6, 2, 3]]
"""Each with one token 1, which is the mask of `tests.unit.analyses.masked`."""
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "attribution_patch": ((ONE, OTHER), {"steps": 8}),
    "bigram_layers": ((LIST,), {"alone": 1}),
    "causal_trace": ((ONE,), {"subject": [3]}),
    "checkpoint_difference": ((), {"other": None}),
    "compare_models": ((LIST,), {"other": None}),
    "fit_lens": ((LIST,), {"positions_skipped": 1}),
    "lens_quality": ((ONE,), {"positions_skipped": 1}),
    "contrast_layers": ((ONE,), {"max_new_tokens": 3}),
    "cross_model_patch": ((ONE,), {"other": None}),
    "generation_lens": ((ONE,), {"max_new_tokens": 3}),
    "head_scores": ((), {"length": 8}),
    "head_roles": ((), {"length": 8}),
    "invariance": ((LIST,), {"augment": "tokens"}),
    "knockout": ((ONE,), {"sources": {"first": [1]}}),
    "observable": ((), {"weights": {17: 1, 20: -1}}),
    "language_track": ((LIST,), {"sets": {"few": [3, 4], "one": [9]}}),
    "lens_difference": ((ONE,), {"other": None}),
    "steering": (([ONE, OTHER], [OTHER, ONE]), {}),
    "top_texts": ((LIST, 1, [0, 1]), {}),
}
"""What analyses need beyond one text, or one for each of their inputs."""


NAMES = [name for name in registry.names() if "experts" not in registry.get(name).needs]
"""Analyses that a model without experts can be asked, as far as it has the rest."""


def arguments(name: str, model: LensModel) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A small call of each analysis."""
    inputs = registry.get(name).inputs
    texts, options = CALLS.get(name, ((ONE, OTHER)[: len(inputs)], {}))
    return texts, {key: model if key == "other" else value for key, value in options.items()}
