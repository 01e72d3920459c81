"""The terms of the field in plain words, for every view and for docs/glossary.md.

``python -m layerlens.glossary`` writes that page again; a test says when it is due.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from layerlens.index import Table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "glossary.md"


class Term(NamedTuple):
    """What a term means, and the other words that stand for it."""

    definition: str
    words: tuple[str, ...] = ()


TERMS: dict[str, Term] = {
    "ablation": Term(
        "Taking a part out of a run by putting zeros, a mean or another text's values in place of "
        "its output. What gets worse is what the part was needed for.",
        ("ablate", "ablated", "replaced", "left out"),
    ),
    "activation": Term(
        "Any number that a model computes on the way, such as the state after a block or the "
        "output of a head.",
        ("activations",),
    ),
    "attention": Term(
        "The sublayer of a block that moves information between tokens: each position reads from "
        "itself and the ones before it, by weights that add up to 1.",
        ("attn", "attention pattern", "attn_out"),
    ),
    "attribution patching": Term(
        "An estimate of activation patching by gradients: the change of an activation times the "
        "slope of the metric. All cells cost one backward pass; single ones can be far off.",
        ("attribution",),
    ),
    "AUC": Term(
        "Area under the curve: the chance that something positive is ranked above something "
        "negative. 0.5 is guessing, 1 is perfect.",
        ("auc",),
    ),
    "block": Term(
        "One layer of a transformer: attention, then an MLP, each adding to the residual stream.",
        ("blocks", "layer", "layers"),
    ),
    "BOS": Term(
        "Beginning of sequence: a token that many models are given before any text.", ("bos",)
    ),
    "bootstrap": Term(
        "An interval found by drawing the texts again and again with replacement: 95 of 100 such "
        "draws have their mean inside it.",
        ("95 %", "interval"),
    ),
    "causal tracing": Term(
        "The subject of a fact is made noisy, and one state after another is set back to what it "
        "was. Where the answer comes back, the fact passes through.",
        ("restored", "indirect effect", "indirect_effect", "noisy"),
    ),
    "CKA": Term(
        "Centred kernel alignment: how alike two sets of states are, whatever way they are turned "
        "or scaled. 1 is the same, 0 has nothing in common.",
        ("cka",),
    ),
    "circuit": Term("The parts of a model, and the paths between them, that do one thing."),
    "coefficient": Term(
        "How much of a direction is added; 0 is the run as it was.", ("coefficients", "dose")
    ),
    "contrast of layers": Term(
        "Writing by the last layer's answer with an earlier one's taken off or added, among the "
        "tokens that the last layer finds plausible.",
        ("contrast", "contrast_layers", "dola", "DoLa", "amateur"),
    ),
    "corrupted run": Term(
        "A run over a text that differs in what matters, so that the model answers differently.",
        ("corrupt", "corrupted"),
    ),
    "clean run": Term("A run over the text whose answer is asked about.", ("clean",)),
    "cosine": Term(
        "Whether two vectors point the same way, whatever their length: 1 the same, 0 at right "
        "angles, -1 opposite.",
        ("cosines",),
    ),
    "cross-entropy": Term(
        "How surprised the model is by the token that really comes next, in nats. 0 is certain.",
        ("cross_entropy", "loss"),
    ),
    "depth score": Term(
        "The mean layer of a text, each weighted by what later layers, or the output, lose without "
        "it: how deep those lie that matter for it.",
        ("depth of a text", "group depth", "group_depth"),
    ),
    "direct logit attribution": Term(
        "What each part writes into the residual stream, read as logits of one token. They add up "
        "to the logit itself.",
        ("contribution",),
    ),
    "delimiter": Term(
        "A token that sets parts of a text apart: a separator (a special token of the tokenizer, "
        "or a line break) or punctuation. The first token of a text counts as none, whatever it "
        "is.",
        ("delimiters", "separators", "special_mass"),
    ),
    "direction": Term(
        "A vector in the space of states. Adding one pushes a run along it.", ("directions",)
    ),
    "early exit": Term(
        "Stopping a pass at a layer where the prediction seems ready, by a rule: the top token "
        "stands out (margin) or is likely (confidence), the entropy is low, the state hardly "
        "changes, or the same token stayed on top (patience). What a rule exceeds to stop is its "
        "threshold.",
        ("exit", "exits", "early_exit", "generation_lens", "exit layer", "patience"),
    ),
    "effect": Term("The metric of the changed run less that of the run as it was.", ("effects",)),
    "effective rank": Term(
        "How many directions are really in use: e to the entropy of the normalised singular "
        "values.",
        ("effective_rank",),
    ),
    "embedding": Term(
        "The vector that a token begins with, before the first block.", ("embed", "embeddings")
    ),
    "energy": Term(
        "Of a state: how much of it lies where the head reads, as the root of its mean squared "
        "cosine with the head's rows, over that of the rows with each other.",
    ),
    "entropy": Term(
        "How spread out a distribution is, in nats. 0 is one certain token; the logarithm of the "
        "vocabulary's size is no idea at all.",
    ),
    "expert": Term(
        "One of several MLPs of a block of which each token passes only a few, chosen by a router.",
        ("experts",),
    ),
    "gradient": Term("The slope of a number with respect to an activation.", ("gradients",)),
    "greedy": Term(
        "Writing the most probable token each time. Else one is drawn by its probability; a "
        "temperature above 1 evens the probabilities out, one below 1 sharpens them.",
        ("temperature", "sampling"),
    ),
    "grokking": Term(
        "To get right what was never shown long after all that was shown is known by heart.",
        ("groks", "grokked"),
    ),
    "head": Term(
        "One of several independent parts of an attention sublayer, with its own pattern.",
        ("heads",),
    ),
    "head of the model": Term(
        "The matrix that turns the last state into logits, also called the unembedding.",
        ("unembedding", "lm_head"),
    ),
    "held out": Term(
        "Measured on texts that took no part in fitting, so that nothing was learned by heart.",
        ("heldout", "set apart", "held-out"),
    ),
    "Hessian": Term(
        "All second derivatives of a loss: how its slope by one weight changes when another weight "
        "moves. It is never written out; products with it are enough.",
    ),
    "induction": Term(
        "Continuing a pattern seen before: after A B ... A comes B. An induction head attends to "
        "the token after the last time that the present one occurred.",
    ),
    "integrated gradients": Term(
        "The slope of a metric with respect to an activation, averaged along the straight way from "
        "a baseline to it and multiplied by that way; all shares add up to what the way changes.",
        ("completeness",),
    ),
    "key": Term(
        "A token that is looked at by a head; also the vector that queries are compared with.",
        ("keys",),
    ),
    "key frequencies": Term(
        "Waves that a model adds numbers with: it holds n as the angle 2 pi k n / p on a circle, "
        "and a sum is a turn. The frequency k is how often the wave goes round from 0 to p.",
        ("key frequency",),
    ),
    "key-value group": Term(
        "Query heads that share keys and values; each has a pattern of its own.",
        ("key-value groups", "kv_group"),
    ),
    "knockout": Term(
        "Attention from some positions to others is blocked, so that nothing passes between them.",
        ("blocked", "blocking"),
    ),
    "KL": Term(
        "Kullback-Leibler divergence: by how many nats one distribution differs from another. 0 "
        "is the same; it is not symmetric.",
        ("kl", "KL divergence", "kl_to_final"),
    ),
    "JS": Term(
        "Jensen-Shannon divergence: a KL that is symmetric, at most ln 2 nats.", ("jsd", "js")
    ),
    "logit": Term(
        "The score of a token before the softmax. Only differences between tokens count.",
        ("logits",),
    ),
    "logit difference": Term(
        "Logit of the right answer less that of the wrong one. Above 0 the right one wins.",
        ("logit_diff", "minus logit"),
    ),
    "latent language": Term(
        "The language whose words lead at layers in the middle while a model reads and writes "
        "another.",
    ),
    "logit lens": Term(
        "Reading a state in the middle as if it were the last, through the final norm and the "
        "head: what the model would say if it stopped there.",
        ("logit_lens", "lens"),
    ),
    "metric": Term("The number that says how well a run does, such as a logit difference."),
    "mid": Term(
        "The state of the stream inside a block: after attention, before the MLP.", ("resid_mid",)
    ),
    "MLP": Term("The sublayer of a block that works on each token by itself.", ("mlp", "mlp_out")),
    "nats": Term("The unit of information with natural logarithms: 1 nat is 1.44 bits.", ("nat",)),
    "neuron": Term("One channel inside an MLP, after its activation function.", ("neurons",)),
    "norm-based": Term(
        "Attention measured by the length of what a head moves from the key into the stream at the "
        "query, not by the weight alone.",
        ("norm_weighted",),
    ),
    "norm": Term("The length of a vector.", ("norms",)),
    "OV": Term(
        "The circuit of a head that says what is moved: from what is attended to, through the "
        "value and output matrices, into the stream.",
    ),
    "patching": Term(
        "Putting an activation of one run into another one and seeing how much of the first "
        "one's answer comes along.",
        ("patch", "patched", "patches"),
    ),
    "path patching": Term(
        "Patching that follows one path only: from a sender to a receiver, all else held fixed.",
        ("path", "receiver"),
    ),
    "position": Term("The place of a token in the text, counted from 0.", ("positions",)),
    "post": Term(
        "The state of the stream after a block: what the next one is given.", ("resid_post",)
    ),
    "pre": Term("The state of the stream before a block.", ("resid_pre",)),
    "probability": Term("A token's share of the softmax over the vocabulary."),
    "prominence": Term(
        "How far the best token of a direction stands out: its score above the mean over the "
        "vocabulary, in standard deviations. A random direction has some, too: read it beside one.",
        ("median_prominence", "random_median_prominence"),
    ),
    "q, k, v": Term(
        "Query, key and value of a head. Where query and key fit, the value is taken along; rot_q "
        "and rot_k are what rotary embeddings make of the first two.",
        ("q", "v", "query", "queries", "rot_q", "rot_k", "q_proj", "k_proj", "v_proj"),
    ),
    "QK": Term(
        "The circuit of a head that says where it looks: query and key matrices together.",
    ),
    "quantisation": Term(
        "Rounding weights to few bits. What it costs depends on the layer.", ("rounded",)
    ),
    "rank": Term("The place of a token among all, by probability; 1 is the best.", ("ranks",)),
    "recovered": Term(
        "The share of the difference between the clean and the corrupted run that comes back: 0 "
        "changes nothing, 1 brings back the clean run's answer.",
    ),
    "residual stream": Term(
        "The vector of a token that runs through all blocks; each reads it and adds to it.",
        ("stream", "state", "states", "residual"),
    ),
    "rollout": Term(
        "Attention followed back to the tokens: the layers' mean patterns, each with half of the "
        "position itself, multiplied."
    ),
    "router": Term(
        "The part of a mixture of experts that chooses, for each token, which experts it passes.",
        ("routers", "routing"),
    ),
    "saturation": Term(
        "Of a layer: attention that is sharp while hardly any gradient arrives, so that a training "
        "may change little there. Scaled to the layers of one model: some layer always has most.",
        ("SKI",),
    ),
    "score of attention": Term(
        "How well a query and a key fit, before the softmax makes weights of the scores of a row.",
        ("scores", "attention score", "attn_scores"),
    ),
    "settle layer": Term(
        "The first layer from which on the top token of a lens stays the model's final answer.",
        ("settle", "settles", "settled", "decided", "settle_layer"),
    ),
    "silhouette": Term(
        "How much nearer something is to its own group than to the next one, from -1 to 1.",
        ("silhouettes",),
    ),
    "sink": Term(
        "A token, mostly the first, that draws attention whatever it is: where a head rests that "
        "has nothing to read.",
        ("sinks", "sink mass", "attention sink"),
    ),
    "softmax": Term("What turns logits into probabilities that add up to 1."),
    "standard error": Term(
        "How far a mean over draws may be from what endless draws would give.",
        ("standard_error",),
    ),
    "steering": Term("Adding a direction to the stream while a text runs.", ("steered", "steer")),
    "sublayer": Term("The attention or the MLP of a block.", ("sublayers",)),
    "token": Term("A piece of text that a model reads and writes as one.", ("tokens",)),
    "tuned lens": Term(
        "A logit lens through a map that was fitted at each depth: what has to be done to a state "
        "so that the head can read it. Simpler ones add a mean shift (bias) or an affine map by "
        "least squares (ridge).",
        ("tuned", "tuned_lens", "fit_lens", "lens_quality", "ridge", "bias lens"),
    ),
    "uniform guess": Term(
        "The answer of one who knows nothing: every token is as probable. Its KL from the "
        "final answer is the logarithm of the vocabulary's size less that answer's entropy.",
        ("kl_uniform", "heldout_uniform"),
    ),
    "value-weighted": Term(
        "The attention weight times the length of the value that it brings.", ("value_weighted",)
    ),
    "void layer": Term("A layer that adds next to nothing to the norm of the state.", ("void",)),
    "z": Term(
        "What a head has gathered, before its output matrix: the values weighed by its attention.",
    ),
}
"""Term to what it means."""


def terms(*words: str) -> Table:
    """Return a table of the terms that views and papers use, in plain words.

    Parameters
    ----------
    *words : str
        Only terms that speak of all of these words.

    Returns
    -------
    Table
        A pandas data frame, indexed by the terms.

    Examples
    --------
    >>> import layerlens as ll
    >>> "nats" in ll.terms("logarithms").index
    True
    """
    import pandas as pd

    from layerlens.index import Table

    def speaks(name: str, term: Term) -> bool:
        said = " ".join([name, term.definition, *term.words]).casefold()
        return all(word.casefold() in said for word in words)

    found = {name: term.definition for name, term in _sorted() if speaks(name, term)}
    index = pd.Index(list(found), name="term")
    return Table({"definition": list(found.values())}, index=index)


def terms_in(sentences: Iterable[str]) -> dict[str, str]:
    """Return the terms that occur in some sentences, with what they mean, in alphabetical order.

    A name such as ``kl_to_final`` counts as the words in it.
    """
    said = "\n".join(sentences)
    said = f"{said}\n{said.replace('_', ' ')}"
    return {name: term.definition for name, term in _sorted() if _pattern(name).search(said)}


def _sorted() -> list[tuple[str, Term]]:
    return sorted(TERMS.items(), key=lambda item: item[0].casefold())


@cache
def _pattern(name: str) -> re.Pattern[str]:
    words = sorted([name, *TERMS[name].words], key=len, reverse=True)
    any_of = "|".join(map(re.escape, words))
    return re.compile(rf"(?<!\w)(?:{any_of})(?!\w)")


def page() -> str:
    """Return the glossary as a page of documentation."""
    rows = [f"- **{name}**: {term.definition}" for name, term in _sorted()]
    head = [
        "# Glossary",
        "",
        "The terms that the views use; in a view, point at a word to read it there. In Python: "
        "`ll.terms()`.",
        "",
    ]
    return "\n".join([*head, *rows]) + "\n"


def main() -> None:
    """Write the page again."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: written")


if __name__ == "__main__":
    main()
