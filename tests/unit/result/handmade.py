"""A lens result made by hand, with tokens that are hard to show and numbers that are known."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from layerlens.result import Check, Result

TOKENS = ["<s>", "The", " <b>cat</b>", " שלום", "👍", "", "日本", "\n", " $x$"]
VOCAB = {
    "0": "<s>",
    "1": "The",
    "2": " <script>alert(1)</script>",
    "3": " שלום",
    "4": "👍",
    "5": "\\xf0\\x9f",
    "6": "日本",
    "7": "\n",
    "8": " $x^2$",
    "9": "مرحبا",
    "10": " " * 3,
    "11": "\u2028x",
}


def dataset(n_layers: int = 3, tokens: list[str] | None = None, k: int = 2) -> xr.Dataset:
    """Return a dataset as a lens makes it; cell (row r, position t) has probability known."""
    tokens = TOKENS if tokens is None else tokens
    points = ["embed"]
    layers = [-1]
    for layer in range(n_layers):
        points += [f"{layer}_mid", f"{layer}_post"]
        layers += [layer, layer]
    points, layers = [*points, "final"], [*layers, n_layers]
    rows, columns = len(points), len(tokens)
    grid = np.add.outer(np.arange(rows), np.arange(columns))
    ids = np.stack([(grid + i) % 12 for i in range(k)], axis=-1).astype(np.int32)
    first = ((1 + np.arange(rows)[:, None]) / (rows + 1) * np.ones(columns)).astype(np.float32)
    chance = np.stack([first / (i + 1) ** 2 for i in range(k)], axis=-1)
    cross = np.where(np.arange(columns) == columns - 1, np.nan, 1.5) * np.ones((rows, 1))
    cell = ("point", "position")
    position = np.arange(columns)
    return xr.Dataset(
        {
            "token_id": ((*cell, "k"), ids, {"units": "1", "long_name": "token"}),
            "probability": ((*cell, "k"), chance, {"units": "1", "long_name": "probability"}),
            "entropy": (cell, (grid / 3).astype(np.float32), {"units": "nats"}),
            "cross_entropy": (cell, cross.astype(np.float32), {"units": "nats"}),
            "kl_to_final": (cell, (rows - 1 - grid * 0.1).astype(np.float32), {"units": "nats"}),
            "rank": (cell, (1 + grid**3).astype(np.int32), {"long_name": "rank of the target"}),
            "tracked_probability": (
                (*cell, "tracked"),
                np.stack([first, 1 - first], axis=-1),
                {"units": "1"},
            ),
            "tracked_rank": ((*cell, "tracked"), np.stack([grid + 1, grid + 2], axis=-1)),
            "first_layer": (("position",), (position % n_layers).astype(np.int32)),
        },
        coords={
            "point": points,
            "layer": ("point", layers),
            "position": position,
            "token": ("position", tokens),
            "continues": ("position", [text == "" for text in tokens]),
            "input_id": ("position", np.arange(columns, dtype=np.int64)),
            "k": np.arange(k),
            "tracked": [3, 9],
            "tracked_token": ("tracked", [VOCAB["3"], VOCAB["9"]]),
        },
        attrs={
            "model": "hand-made",
            "model_type": "toy",
            "dtype": "float32",
            "text": "".join(tokens),
            "d_vocab": 12,
            "vocab": json.dumps(VOCAB),
            "notes": json.dumps(["BOS <s> was added in front"]),
            "seconds": 0.25,
            "seed": None,
            "passes": 1,
            "source": "nostalgebraist 2020",
            "question": "What would the model say here?",
        },
    )


CHECKS = [
    Check("final", 1.5e-7, 1e-5, True, "the last row against the model's own logits"),
    Check("<i>sum</i>", 0.5, 1e-3, False, "probabilities against 1"),
]


def result(n_layers: int = 3, tokens: list[str] | None = None, k: int = 2) -> Result:
    """Return the result of `dataset`, with one good and one bad check."""
    return Result("logit_lens", dataset(n_layers, tokens, k), CHECKS, 'll.logit_lens(model, "x")')


def batch() -> Result:
    """Return a result of two texts, the second one three tokens shorter."""
    data = dataset()
    short = data.copy(deep=True)
    short["input_id"] = short["input_id"].where(short["position"] < 6, -1)
    short["token"] = short["token"].where(short["position"] < 6, "")
    data = data.reset_coords(["input_id", "token", "continues"])
    short = short.reset_coords(["input_id", "token", "continues"])
    both = xr.concat([data, short], dim="batch", data_vars="all").set_coords(
        ["input_id", "token", "continues"]
    )
    return Result("logit_lens", both, CHECKS, "ll.logit_lens(model, texts)")
