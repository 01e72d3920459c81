"""What the page of a feature holds."""

from __future__ import annotations

from layerlens.analyses.contract.parts import Variable

_EXAMPLE, _WINDOW, _RANK = ("example",), ("example", "offset"), ("rank",)
_BIN, _BAND, _NEAR = ("bin",), ("band",), ("near",)
_END, _DOSE, _TEXT = ("side", "order"), ("strength",), ("strength", "step")
_SCORE = "logits, before the norm's scale"

VARIABLES = {
    "activation": Variable(_EXAMPLE, "float32", "activation", "activation of the feature"),
    "token": Variable(_EXAMPLE, "int32", "1", "token there", is_token=True),
    "text": Variable(_EXAMPLE, "int32", "1", "number of the text, from 0"),
    "position": Variable(_EXAMPLE, "int32", "1", "position in the row of tokens, from 0"),
    "at_layer": Variable(_EXAMPLE, "int32", "1", "layer where it is on"),
    "context_token": Variable(_WINDOW, "int32", "1", "tokens around the example", is_token=True),
    "context_activation": Variable(
        _WINDOW, "float32", "activation", "activation of the feature at these"
    ),
    "shuffled_activation": Variable(
        _RANK, "float32", "activation", "activation at the same token, its text shuffled"
    ),
    "kl_without": Variable(
        _RANK, "float32", "nats", "KL divergence of the next token there, without the feature"
    ),
    "other_kl_without": Variable(
        _RANK, "float32", "nats", "the same with as much taken out along another feature"
    ),
    "count": Variable(_BIN, "int64", "tokens", "tokens by how strongly it is on"),
    "shuffled_count": Variable(_BIN, "int64", "tokens", "the same of the texts shuffled"),
    "bin_top": Variable(_BIN, "float32", "activation", "end of each bin"),
    "band_from": Variable(_BAND, "float32", "activation", "where each band begins"),
    "band_to": Variable(_BAND, "float32", "activation", "where each band ends"),
    "band_count": Variable(_BAND, "int64", "tokens", "tokens in each band"),
    "density": Variable((), "float32", "1", "share of the tokens that it is on for"),
    "shuffled_density": Variable((), "float32", "1", "the same of the texts shuffled"),
    "sparser": Variable(
        (), "float32", "1", "share of the dictionary's other features that are on less often"
    ),
    "largest": Variable((), "float32", "activation", "its largest activation"),
    "firings": Variable((), "int64", "tokens", "tokens that it is on for"),
    "counted": Variable((), "int64", "tokens", "tokens that were encoded, in each layer"),
    "features": Variable((), "int32", "features", "features of the dictionary"),
    "other_feature": Variable(
        (), "int32", "1", "feature that is on about as often, for comparison"
    ),
    "effect_token": Variable(
        _END, "int32", "1", "tokens whose logits it raises and lowers most", is_token=True
    ),
    "effect_score": Variable(
        _END, "float32", _SCORE, "what its decoder row does to their logits", signed=True,
        formula="w_dec through the final norm's gain and the head, from the vocabulary's mean",
    ),
    "random_effect_score": Variable(
        _END, "float32", _SCORE, "the same of random directions as long, mean", signed=True
    ),
    "neighbour": Variable(_NEAR, "int32", "1", "features with the nearest decoder rows"),
    "neighbour_cosine": Variable(
        _NEAR, "float32", "1", "cosines of their decoder rows with its own", signed=True
    ),
    "random_cosine": Variable(
        _NEAR, "float32", "1", "cosines of the rows nearest to a random direction", signed=True
    ),
    "neighbour_token": Variable(
        _NEAR, "int32", "1", "tokens that they raise most", is_token=True
    ),
    "layer_share": Variable(
        ("layer",), "float32", "1", "share of its activation by layer",
        source="Lawson et al. (2024), Residual Stream Analysis with Multi-Layer SAEs",
    ),
    "all_layer_share": Variable(
        ("layer",), "float32", "1", "share of the activation of all features by layer"
    ),
    "prompt_token": Variable(
        ("prompt_position",), "int32", "1", "text that is gone on from", is_token=True
    ),
    "own_token": Variable(
        ("step",), "int32", "1", "what the model writes by itself", is_token=True
    ),
    "steered_token": Variable(
        _TEXT, "int32", "1", "what it writes with the feature added", is_token=True
    ),
    "other_steered_token": Variable(
        _TEXT, "int32", "1", "what it writes with as much of another feature", is_token=True
    ),
    "steer_kl": Variable(
        _DOSE, "float32", "nats", "KL divergence of the first token, with the feature added"
    ),
    "other_steer_kl": Variable(
        _DOSE, "float32", "nats", "the same with as much of another feature"
    ),
    "scale": Variable((), "float32", "1", "times that strength 1 adds the decoder row"),
    "steered_layer": Variable((), "int32", "1", "layer where it is added"),
}  # fmt: skip
