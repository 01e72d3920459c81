"""Models whose inner workings are known, because their weights were written by hand.

All are GPT-2 classes. A state holds features ``f`` and their negatives, ``(f, -f)``: its mean is
zero, so that a layer norm only divides it by a number, and features can be read and written one
by one. Features are named blocks of one-hot codes. Every sublayer also writes the same little thing
everywhere (the block ``rest``), which nothing reads, so that none of them is silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from layerlens.model.lensmodel import LensModel

WORDS = 12
HEADS = 4
SHARP = 40.0
"""Difference of attention scores between the key that a head looks for and all others."""


class Stream:
    """Where each block of features lies in the stream.

    Parameters
    ----------
    **sizes
        Name of a block to its number of features; ``rest`` is added.
    """

    def __init__(self, **sizes: int) -> None:
        sizes["rest"] = 2 - sum(sizes.values()) % 2
        self.n = sum(sizes.values())
        self.width = 2 * self.n
        ends = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
        self._at = {
            name: range(start, start + sizes[name])
            for name, start in zip(sizes, ends, strict=False)
        }

    def code(self, name: str, index: int = 0, size: float = 1.0) -> Tensor:
        """State ``[width]`` in which one feature has this size and all others are zero."""
        state = torch.zeros(self.width)
        feature = self._at[name][index]
        state[feature], state[feature + self.n] = size, -size
        return state

    def codes(self, name: str, size: float = 1.0) -> Tensor:
        """``[features of the block, width]``, one code a row."""
        return torch.stack([self.code(name, i, size) for i in range(len(self._at[name]))])

    def read(self, name: str) -> Tensor:
        """``[width, features of the block]``: a state times this gives its features."""
        return self.codes(name, 0.5).T


def empty(stream: Stream, layers: int, hidden: int = 4) -> GPT2LMHeadModel:
    """A GPT-2 of this width in which nothing writes anything."""
    config = GPT2Config(
        n_layer=layers,
        n_head=HEADS,
        n_embd=stream.width,
        n_inner=hidden,
        vocab_size=WORDS,
        n_positions=WORDS,
        activation_function="relu",
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            norm_gain = "ln_" in name and name.endswith("weight")
            parameter.fill_(1.0 if norm_gain else 0.0)
        hf.transformer.wte.weight.copy_(stream.codes("token"))
        hf.transformer.wpe.weight.copy_(stream.codes("position"))
        hf.lm_head.weight.copy_(stream.codes("out", 4.0))
        for block in hf.transformer.h:
            for sublayer in (block.attn, block.mlp):
                sublayer.c_proj.bias.copy_(stream.code("rest", 0, 0.001))
    return hf


def set_head(
    hf: GPT2LMHeadModel,
    layer: int,
    head: int,
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    write: Tensor,
    q_bias: Tensor | None = None,
) -> None:
    """Give one head its maps: q, k, v ``[width, n]`` read, ``write`` ``[n, width]`` writes."""
    attention = hf.transformer.h[layer].attn
    width, size = attention.embed_dim, attention.head_dim
    with torch.no_grad():
        for part, read in enumerate((q, k, v)):
            start = part * width + head * size
            attention.c_attn.weight[:, start : start + read.shape[1]] = read
        if q_bias is not None:
            attention.c_attn.bias[head * size : head * size + len(q_bias)] = q_bias
        attention.c_proj.weight[head * size : head * size + len(write)] = write


def sharpen(stream: Stream, features: float) -> float:
    """Scale of q and k so that a match of two unit features scores ``SHARP`` more than none.

    ``features`` is how many unit features the states hold that are read after a layer norm.
    """
    seen = (stream.n / features) ** 0.5  # size of a unit feature after the norm
    size = stream.width // HEADS
    return float((SHARP * size**0.5) ** 0.5 / seen)


#: The previous-token head and the induction head of :func:`induction_model`.
PREVIOUS, INDUCTION = (0, 2), (1, 1)


def induction_model() -> LensModel:
    """Two layers of attention that continue ``... A B ... A`` with B.

    Head 0.2 looks at the position before and copies its token into the block ``previous``. Head
    1.1 looks for positions whose ``previous`` is the present token and copies the token there
    into the block ``out``, which the head of the model reads. No other head or MLP writes. Give
    it prompts that begin with token 0 and repeat no other token but the last.
    """
    stream = Stream(token=WORDS, position=WORDS, previous=WORDS, out=WORDS)
    hf = empty(stream, layers=2)
    scale = sharpen(stream, 2)
    before = torch.eye(WORDS)[[0, *range(WORDS - 1)]]  # position i asks for position i - 1
    set_head(
        hf,
        *PREVIOUS,
        q=scale * stream.read("position") @ before,
        k=scale * stream.read("position"),
        v=stream.read("token") * (2 / stream.n) ** 0.5,
        write=stream.codes("previous"),
    )
    scale = sharpen(stream, 3)
    set_head(
        hf,
        *INDUCTION,
        q=scale * stream.read("token"),
        k=scale * stream.read("previous"),
        v=stream.read("token") * (3 / stream.n) ** 0.5,
        write=stream.codes("out", 4.0),
    )
    return LensModel.wrap(hf, None, name="planted induction", prove=False)


#: The layer whose MLP knows the answers of :func:`lookup_model`, and the one that moves them.
KNOWS, MOVES = 1, 2


def lookup_model(facts: Mapping[int, int]) -> LensModel:
    """Four layers that answer a question about the subject named in the prompt.

    The MLP of layer 1 holds one neuron for each subject: where it sees that token it writes the
    answer and a flag, both large. Head 2.3 looks for the flag from everywhere and copies the
    answer into ``out``.

    Parameters
    ----------
    facts
        Token of a subject to the token of its answer.
    """
    stream = Stream(token=WORDS, position=WORDS, answer=WORDS, flag=1, out=WORDS)
    hf = empty(stream, layers=4, hidden=len(facts))
    seen = (stream.n / 2) ** 0.5
    mlp = hf.transformer.h[KNOWS].mlp
    with torch.no_grad():
        for neuron, (subject, answer) in enumerate(facts.items()):
            mlp.c_fc.weight[:, neuron] = stream.read("token")[:, subject]
            mlp.c_fc.bias[neuron] = -0.8 * seen
            fact = stream.code("answer", answer, 100.0) + stream.code("flag", 0, 100.0)
            mlp.c_proj.weight[neuron] = fact / (0.2 * seen)
    size = stream.width // HEADS
    large = seen  # of the flag, where flag and answer are all that counts
    set_head(
        hf,
        MOVES,
        3,
        q=torch.zeros(stream.width, 1),
        q_bias=torch.tensor([SHARP * size**0.5 / large]),
        k=stream.read("flag"),
        v=stream.read("answer") / seen,
        write=stream.codes("out", 20.0),
    )
    return LensModel.wrap(hf, None, name="planted lookup", prove=False)


def suppressing_model(token: int, share: float) -> LensModel:
    """One layer whose MLP takes away a share of what the embedding says for one token.

    The embedding writes a unit of ``out`` for the token that is fed (the model repeats what it
    reads); the MLP reads that unit for ``token`` alone and writes ``-share`` of it.
    """
    stream = Stream(token=WORDS, position=WORDS, out=WORDS)
    hf = empty(stream, layers=1, hidden=1)
    seen = (stream.n / 3) ** 0.5
    with torch.no_grad():
        hf.transformer.wte.weight.add_(stream.codes("out"))
        mlp = hf.transformer.h[0].mlp
        mlp.c_fc.weight[:, 0] = stream.read("out")[:, token] / seen
        mlp.c_proj.weight[0] = stream.code("out", token, -share)
    return LensModel.wrap(hf, None, name="planted suppression", prove=False)


def answers(model: LensModel, prompts: Iterable[list[int]]) -> list[int]:
    """What the model says after each prompt, by transformers alone."""
    with torch.inference_mode():
        return [int(model.hf(torch.tensor([ids])).logits[0, -1].argmax()) for ids in prompts]
