"""What ``mode_connectivity`` tells."""

from __future__ import annotations

from layerlens.analyses.contract.parts import Variable

_BARRIER = "max over a of L(a) - ((1 - a) L(0) + a L(1))"
_RISE = "max over a of L(a) - ((1 - a) loss of this model + a loss of the other)"
_CELL = ("layer", "mixed")
VARIABLES = {
    "barrier": Variable(_CELL, "float64", "nats", "barrier of a layer", formula=_BARRIER),
    "rise": Variable(
        _CELL,
        "float64",
        "nats",
        "rise of the loss above both models, a layer mixed",
        signed=True,
        formula=_RISE,
    ),
    "all_loss": Variable(("share",), "float64", "nats", "loss on the way, all weights mixed"),
    "all_loss_chance": Variable(
        ("share",), "float64", "nats", "loss on a way as long in a random direction"
    ),
    "all_loss_baseline": Variable(
        ("share",),
        "float64",
        "nats",
        "loss on the way, units in their own order",
    ),
    "part_barrier": Variable(
        ("part",), "float64", "nats", "barrier of all layers at once", formula=_BARRIER
    ),
    "part_loss": Variable(
        ("part", "share"), "float64", "nats", "loss with a part of all layers mixed", hidden=True
    ),
    "layer_loss": Variable(
        ("layer", "mixed", "share"), "float64", "nats", "loss with a layer mixed", hidden=True
    ),
    "length": Variable(("layer",), "float64", "1", "distance of a layer's weights: aligned"),
    "length_baseline": Variable(
        ("layer",), "float64", "1", "distance of a layer's weights: in their own order"
    ),
    "moved": Variable(("layer", "units"), "float64", "1", "units of the other that changed places"),
    "loss": Variable((), "float64", "nats", "loss of this model"),
    "other_loss": Variable((), "float64", "nats", "loss of the other model"),
}
ALIGNED = ("all_loss_baseline", "length", "length_baseline", "moved")
"""What is told only where units are aligned."""
