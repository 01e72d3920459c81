"""What ``sticky_tokens`` tells."""

from __future__ import annotations

from layerlens.analyses.contract.parts import Variable, with_interval

_CURVE = ("layer", "inserted")
VARIABLES = {
    **with_interval(
        "share",
        Variable(
            ("token",), "float64", "1", "share of pairs that come nearer to the mean similarity"
        ),
        "pairs of texts",
    ),
    "share_chance": Variable(
        ("token",), "float64", "1", "share of pairs, with another token whose embedding is as long"
    ),
    "similarity": Variable(
        ("times", "inserted"), "float64", "1", "similarity of pairs, a token put in so many times",
        signed=True,
    ),
    "pull": Variable(
        _CURVE, "float64", "1", "nearer to the mean text with the token than without (cosine)",
        signed=True,
    ),
    "attention": Variable(_CURVE, "float64", "1", "share of attention that inserted tokens take"),
    "score": Variable(("token",), "float64", "1", "score on the pairs of the shortlist"),
    "token_id": Variable(("token",), "int64", "1", "token", is_token=True),
    "candidate_score": Variable(
        ("candidate",), "float64", "1", "score of a candidate", hidden=True
    ),
    "mean_similarity": Variable((), "float64", "1", "mean similarity of two texts", signed=True),
    "sticky": Variable((), "int64", "1", "sticky tokens in the shortlist"),
    "sticky_chance": Variable((), "int64", "1", "sticky ones among as many other tokens"),
}  # fmt: skip
