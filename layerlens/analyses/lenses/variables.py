"""What every lens answers in a cell, and how far apart two of them are there."""

from __future__ import annotations

from layerlens.analyses.contract.contract import Variable

NO_LAYER = -2

_CELL = ("lens?", "point", "position")
_POSITION = ("lens?", "position")
VARIABLES = {
    "token_id": Variable((*_CELL, "k"), "int32", "1", "predicted token, best first", is_token=True),
    "probability": Variable((*_CELL, "k"), "float32", "1", "probability of the predicted token"),
    "entropy": Variable(_CELL, "float32", "nats", "entropy of the prediction"),
    "kl_to_final": Variable(_CELL, "float32", "nats", "KL divergence, final from this point"),
    "cross_entropy": Variable(_CELL, "float32", "nats", "cross-entropy of the next token"),
    "rank": Variable(_CELL, "int32", "1", "rank of the target token, 1 = best"),
    "target_id": Variable(
        ("position",),
        "int32",
        "1",
        "next token; at the end, and at mask tokens, the model's own answer",
        is_token=True,
    ),
    "tracked_probability": Variable(
        (*_CELL, "tracked"), "float32", "1", "probability of the tracked token"
    ),
    "tracked_rank": Variable((*_CELL, "tracked"), "int32", "1", "rank of the tracked token"),
    "first_layer": Variable(
        _POSITION,
        "int32",
        "layer",
        "first layer whose answer is the final one",
        NO_LAYER,
    ),
    "settle_layer": Variable(
        _POSITION,
        "int32",
        "layer",
        "layer from which the answer stays the final one",
        NO_LAYER,
    ),
    "first_point": Variable(
        _POSITION, "int32", "1", "first point whose answer is the final one (index)"
    ),
    "settle_point": Variable(
        _POSITION,
        "int32",
        "1",
        "point from which the answer stays the final one (index)",
    ),
}


def apart(*cell: str) -> dict[str, Variable]:
    """How far apart two lenses are in a cell, over these axes."""
    return {
        "change": Variable(
            cell, "float32", "1", "change of the probability of the first one's top token",
            signed=True,
        ),
        "tracked_change": Variable(
            (*cell, "tracked"), "float32", "1", "change of the probability of the tracked token",
            signed=True,
        ),
        "kl_between": Variable(
            cell, "float32", "nats", "KL divergence of the other from the first"
        ),
    }  # fmt: skip
