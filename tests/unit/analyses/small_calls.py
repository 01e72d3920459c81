"""A small call of every analysis, in token ids."""

from __future__ import annotations

from typing import Any

from layerlens.analyses.contract import registry
from layerlens.model.lensmodel import LensModel

ONE, OTHER = [5, 9, 5, 3, 7, 1], [5, 9, 5, 4, 7, 1]
LIST = [ONE, OTHER, [4, 8, 6, 1, 2, 3]]
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "checkpoint_difference": ((), {"other": None}),
    "compare_models": ((LIST,), {"other": None}),
    "cross_model_patch": ((ONE,), {"other": None}),
    "head_scores": ((), {"length": 8}),
    "invariance": ((LIST,), {"augment": "tokens"}),
    "knockout": ((ONE,), {"sources": [1]}),
    "steering": (([ONE, OTHER], [OTHER, ONE]), {}),
    "top_texts": ((LIST, 1, [0, 1]), {}),
}
"""What analyses need beyond one text, or one for each of their inputs."""


def arguments(name: str, model: LensModel) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A small call of each analysis."""
    inputs = registry.get(name).inputs
    texts, options = CALLS.get(name, ((ONE, OTHER)[: len(inputs)], {}))
    return texts, {key: model if key == "other" else value for key, value in options.items()}
