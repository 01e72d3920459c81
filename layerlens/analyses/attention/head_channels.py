"""The channels of one head: the directions that it reads and writes, and the tokens they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.attention.channel_sweeps import ChannelSweeps, Lever
from layerlens.analyses.attention.channels import Channels
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import given
from layerlens.analyses.contributions.head_matrices import HeadMaps, HeadMatrices
from layerlens.analyses.contributions.token_scores import bends, read_scores, write_scores
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError, ModelError
from layerlens.model.integers import whole
from layerlens.model.sites import Site
from layerlens.run.many_edits import DEFAULT_LIMIT

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SIDES = ("positive", "negative")
_TOKENS = ("channel", "side", "k")
_DOSE = ("channel", "coefficient")
_SIDES_OF = {
    "ov_read": "read by the channel, from the embedding",
    "ov_write": "raised by the channel's write, in the logits",
    "qk_query": "that query along the channel, from the embedding",
    "qk_key": "that are looked for along the channel, from the embedding",
}
VARIABLES = {
    "ov_strength": Variable(("channel",), "float32", "1", "strength of the channel of OV"),
    "ov_share": Variable(("channel",), "float32", "1", "share of the channel in OV, squared"),
    "qk_strength": Variable(("channel",), "float32", "1", "strength of the channel of QK"),
    "qk_share": Variable(("channel",), "float32", "1", "share of the channel in QK, squared"),
    "ov_dose_metric": Variable(_DOSE, "float32", "1", "metric with the channel of OV so strong"),
    "ov_dose_change": Variable(
        _DOSE, "float32", "1", "change of the metric by the channel of OV", signed=True
    ),
    "qk_dose_metric": Variable(_DOSE, "float32", "1", "metric with the channel of QK so strong"),
    "qk_dose_change": Variable(
        _DOSE, "float32", "1", "change of the metric by the channel of QK", signed=True
    ),
    "qk_dose_pattern": Variable(
        (*_DOSE, "position"),
        "float32",
        "1",
        "attention to the position with the channel of QK so strong",
    ),
    **{
        f"{name}_token": Variable(_TOKENS, "int32", "1", f"tokens {words}", is_token=True)
        for name, words in _SIDES_OF.items()
    },
    **{
        f"{name}_score": Variable(_TOKENS, "float32", "1", f"of the tokens {words}")
        for name, words in _SIDES_OF.items()
    },
}


def count_work(
    model: LensModel,
    *,
    channels: int,
    text: Any,
    coefficients: Any,
    verify: int,
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes, operations and bytes of one call; runs nothing."""
    operations = 2.0 * model.d_model * model.d_vocab * 4 * channels
    size = 4 * 4 * channels * model.d_vocab
    if text is None:
        return Work(0, 0, size, tokens=0, operations=operations)
    doses = channels * len(list(coefficients))
    measured = 1 + 2 * (doses + verify)
    return Work(measured + doses, measured, size + memory_limit, operations=operations)


@analysis(
    name="head_channels",
    question="Along which directions does a head read and write, and which tokens are they?",
    source="Elhage et al. (2021), A Mathematical Framework for Transformer Circuits, Transformer "
    "Circuits Thread; Merullo, Eickhoff and Pavlick (2024), Talking Heads, arXiv 2406.09519",
    cost="no pass, weights only; with a text three passes for each channel and strength",
    view="curves",
    lead="A channel is one direction that the head reads and one that it then writes, with the "
    "tokens that mean most along each; the first ones carry most.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    positional=("layer", "head"),
    needs=("attention",),
    effects=dict.fromkeys(
        ("coefficients", "positions", "answer", "wrong", "metric"), given("text")
    ),
)
def head_channels(
    job: Job,
    model: LensModel,
    *,
    layer: int = 0,
    head: int = 0,
    channels: int = 8,
    top_k: int = 8,
    text: Any = None,
    coefficients: Any = (0.0, 0.5, 1.0, 2.0, 4.0),
    positions: Any = None,
    answer: str | int | None = None,
    wrong: str | int | None = None,
    metric: str | MetricFunction = "logit_diff",
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Split a head's two maps into singular channels, name their tokens, and turn one up or down.

    OV says what a head writes for what it reads, QK which query matches which key. Each is a sum
    of as many channels as the head is wide: one direction in, one out, and a strength (singular
    value). With a text, the strength of one channel at a time is multiplied while the model runs:
    of OV the answer shows what its write does, of QK also where the head then looks.

    Parameters
    ----------
    layer, head
        Which head; negative layers count from the end.
    channels
        How many of the strongest channels to show.
    top_k
        How many tokens to name at either end of a channel.
    text
        A text to run with the channel stronger or weaker; None: weights only.
    coefficients
        What the strength is multiplied with: 0 takes the channel out, 1 changes nothing.
    positions
        Where it is changed: an index, a slice, a list or the text of a span; None: everywhere.
    answer, wrong, metric
        As in ``ll.patch_sweep``, of the text as it is.
    verify
        How many cells of the sweep to run again the naive way.
    memory_limit
        Bytes of working memory above the model's own.

    Notes
    -----
    Tokens of a side: those whose embedding (made as long as the norm makes it) lies furthest along
    what is read, and those whose logits rise most by what is written, from their mean over the
    vocabulary. Both ends of a channel turn together: what is read with the opposite sign writes
    the ``negative`` tokens. Deeper in a model the stream holds more than embeddings, so these
    names are a guess there, and what is written is read by later layers, too.

    No weight is changed. In copies, the gain of the norm that the head reads through and of one
    behind it are folded in (attribute ``folded``), the norms' statistics, biases and rotary
    embeddings are left out: QK is that of a query and a key at the same position. The sweep of
    OV changes ``z``, what the head hands on, along the one direction that the channel makes of it,
    that of QK the queries likewise, as if the weights of q held the channel so strong; with all of
    them at 0 a head looks everywhere alike. What biases put there counts with it.
    ``qk_dose_pattern`` is that of the last position that is changed (attribute
    ``pattern_query``).

    Raises
    ------
    InputError
        An option does not fit, or weights are quantised or not in memory.
    ModelError
        The head cannot be read from weights.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.head_channels(model, 1, 2, channels=2, text="cat dog owl cat")
    >>> found.data.ov_dose_metric.dims
    ('channel', 'coefficient')
    """
    layer = model.layers(whole(layer, "layer"))[0]
    head, channels, top_k = whole(head, "head"), whole(channels, "channels"), whole(top_k, "top_k")
    doses = _doses(coefficients)
    tokens = None if text is None else _one_text(job, text)
    n_heads = model.anatomy.blocks[layer].n_heads
    if not 0 <= head < max(n_heads, 1):
        raise InputError(f"Head {head} does not exist: layer {layer} has {n_heads} heads.")
    most = min(model.d_vocab, model.d_vocab_in)
    if channels < 1 or not 1 <= top_k <= most:
        raise InputError(
            f"channels is {channels} and top_k {top_k}; expected channels from 1 and top_k from 1 "
            f"to {most}."
        )
    maps = HeadMaps(job, model, [layer]).of(layer)
    found = _Head(job, model, maps, head, channels, top_k)
    found.declare(doses, tokens)
    found.name_tokens()
    if tokens is not None:
        measure = {"metric": metric, "answer": answer, "wrong": wrong}
        _sweep(found, tokens, doses, positions, measure, verify=verify, memory_limit=memory_limit)


def _one_text(job: Job, text: Any) -> Tokens:
    tokens = job.tokens(text)
    if tokens.ids.shape[0] != 1:
        raise InputError("text is several texts; give one.")
    return tokens


def _doses(asked: Any) -> list[float]:
    doses = [float(value) for value in np.atleast_1d(np.asarray(asked, dtype=float))]
    if not doses or not np.isfinite(doses).all() or len(set(doses)) < len(doses):
        raise InputError(f"coefficients are {asked}; expected different numbers, at least one.")
    return doses


class _Head:
    """One head's channels."""

    def __init__(
        self, job: Job, model: LensModel, maps: HeadMatrices, head: int, channels: int, top_k: int
    ) -> None:
        self.job, self.model, self.maps, self.head, self.top_k = job, model, maps, head, top_k
        self.o, self.v = maps.o[head], maps.v_of_heads()[head]
        self.q, self.k = (each[head] for each in maps.qk_of_heads())
        self.ov, self.qk = Channels.of(self.o, self.v), Channels.of(self.q.T, self.k)
        if not len(self.ov) or not len(self.qk):
            raise ModelError(
                f"OV or QK of head {head} of layer {maps.layer} is all zeros in {model.name}: it "
                "has no channels."
            )
        self.shown = min(channels, len(self.ov), len(self.qk))
        name = f"heads.{maps.layer}.{head}"
        job.check("channels sum to OV", self.ov.off(self.o, self.v), 1e-5, f"all channels, {name}")
        job.check(
            "channels sum to QK", self.qk.off(self.q.T, self.k), 1e-5, f"all channels, {name}"
        )

    def declare(self, doses: Sequence[float], tokens: Tokens | None) -> None:
        """State axes and coordinates; without a text there are no doses."""
        sizes = {"channel": self.shown, "side": len(SIDES), "k": self.top_k}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "channel": (("channel",), np.arange(self.shown, dtype=np.int32)),
            "side": (("side",), np.array(SIDES)),
        }
        self.untold, self.fixed = _untold(self.model), _fixed(self.model, self.maps)
        silent = ["ov_write_token", "ov_write_score"] if self.untold else []
        if tokens is not None:
            cells = Cells(self.model, row_of(tokens, 0))
            sizes |= {"coefficient": len(doses), **cells.sizes()}
            coords |= {"coefficient": (("coefficient",), np.array(doses)), **cells.coords()}
            if self.fixed:
                silent += [name for name in VARIABLES if name.startswith("qk_dose")]
                self.job.remark(f"{self.fixed}, so the channels of QK are not turned up or down.")
        self.job.declare(sizes, coords, [name for name in VARIABLES if name not in silent])

    def name_tokens(self) -> None:
        """Turn each channel so that its largest token is positive, and name both ends."""
        n, norm = self.shown, self.maps.norm
        ov, qk = self.ov, self.qk
        rows = torch.cat([ov.into[:, :n], qk.out[:, :n], qk.into[:, :n]], dim=1).T.float()
        read, query, key = read_scores(self.model, norm, rows, self.job.tick).split(n)
        scores = {"ov_read": read, "qk_query": query, "qk_key": key}
        if self.untold:
            self.job.remark(f"{self.untold}, so what is written has no tokens.")
        else:
            scores["ov_write"] = write_scores(self.model, ov.out[:, :n].float()).cpu()
        ends = {"ov": scores.get("ov_write", read), "qk": query}
        signs = {name: _sign(end) for name, end in ends.items()}
        self.ov, self.qk = self._turned(ov, signs["ov"]), self._turned(qk, signs["qk"])
        arrays: dict[str, Any] = {
            f"{name}_{what}": value[:n].cpu().numpy()
            for name, channels in (("ov", ov), ("qk", qk))
            for what, value in (("strength", channels.strength), ("share", channels.share()))
        }
        for name, values in scores.items():
            values = values * signs[name[:2]][:, None]
            best = [values.topk(self.top_k), (-values).topk(self.top_k)]
            arrays[f"{name}_token"] = torch.stack([end.indices for end in best], 1).numpy()
            arrays[f"{name}_score"] = torch.stack([best[0].values, -best[1].values], 1).numpy()
        self.job.emit({}, arrays)
        self.job.note(
            passes=1,
            head=f"{self.maps.layer}.{self.head}",
            rank_ov=len(ov),
            rank_qk=len(qk),
            folded="; ".join(self.maps.folded) or "nothing",
        )

    def _turned(self, channels: Channels, signs: Tensor) -> Channels:
        every = torch.ones_like(channels.strength)
        every[: self.shown] = signs.to(every)
        return channels.turned(every)

    def levers(self) -> list[Lever]:
        """Where the channels of OV and of QK pass while the model runs.

        Those of QK at the queries: keys may be shared by several heads.
        """
        layer, n = self.maps.layer, self.shown
        ov = Lever(
            "ov",
            Site("z", layer, self.head),
            (self.o.double().T @ self.ov.out[:, :n] / self.ov.strength[:n]).T,
            (self.v.double() @ self.ov.into[:, :n]).T,
        )
        if self.fixed:
            return [ov]
        qk = Lever(
            "qk",
            Site("q", layer, self.head),
            (self.k.double() @ self.qk.into[:, :n]).T,
            (self.q.double() @ self.qk.out[:, :n] / self.qk.strength[:n]).T,
        )
        # Where q is rotated, it is read before any norm on it.
        norm = self.maps.norm_on_q(self.head)
        rotated = self.model.anatomy.blocks[layer].rotary
        return [ov, qk.before(norm) if norm and rotated else qk]


def _untold(model: LensModel) -> str | None:
    """Why what is written has no tokens, or None where it has."""
    if model.anatomy.head is None:
        return "The model has no head"
    path = bends(model)
    return path and f"{path} leads to the logits and is not linear"


def _fixed(model: LensModel, maps: HeadMatrices) -> str | None:
    """Why queries cannot be changed channel by channel, or None where they can."""
    block = model.anatomy.blocks[maps.layer]
    if block.rotary and "q" not in block.taps:
        return f"q of layer {maps.layer} cannot be changed before the rotary embedding"
    norm = maps.q_norm
    if norm is not None and norm.centred and len(norm.gain) < maps.n_heads:
        return f"A norm takes off the mean over all heads of q in layer {maps.layer}"
    return None


def _sign(values: Tensor) -> Tensor:
    """One or minus one for each row: the sign of its largest magnitude."""
    strongest = values.abs().argmax(1, keepdim=True)
    return values.gather(1, strongest)[:, 0].sign()


def _sweep(
    found: _Head,
    tokens: Tokens,
    doses: list[float],
    positions: Any,
    measure: dict[str, Any],
    **how: int,
) -> None:
    """Run the text with each channel of each map at each strength."""
    levers = found.levers()
    sites = [lever.site for lever in levers]
    sweeps = ChannelSweeps(found.job, found.model, tokens, sites, positions, measure)
    for number, lever in enumerate(levers):
        sweeps.run(lever, found.shown, doses, (number, len(levers)), **how)
        if lever.map == "qk":
            sweeps.patterns(lever, found.shown, doses)
