"""Which experts of a mixture serve which tokens, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.measuring.expert_cell import open_expert
from layerlens.analyses.measuring.expert_counts import (
    TOP,
    even_usage,
    information,
    shuffled_information,
    tokens_of_experts,
    usage,
)
from layerlens.errors import InputError
from layerlens.metrics.batch import Batch, split
from layerlens.model.integers import whole
from layerlens.run.forward import forward
from layerlens.run.routers import Choice, Router, find_routers, watch_routers

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

CHOICE_BYTES = 192
"""What is kept of a token in a layer: eight experts with their weights, twice."""

_EACH = ("layer", "expert")
_LAYER = ("layer",)
_TOP = ("layer", "expert", "k")
_CHANCE = ", of a router that chooses at random"
_SWITCH = "Fedus, Zoph and Shazeer (2021), Switch Transformers, arXiv 2101.03961"
VARIABLES = {
    "expert_load": Variable(
        _EACH, "float64", "1", "share of the assignments", formula="n_e / (tokens * choices)"
    ),
    "expert_weight": Variable(_EACH, "float64", "1", "share of the routing weight"),
    "balance": Variable(
        _LAYER, "float64", "1", "balance of the load", formula="-sum_e f_e ln f_e / ln E"
    ),
    "balance_chance": Variable(_LAYER, "float64", "1", f"balance of the load{_CHANCE}"),
    "largest_load": Variable(
        _LAYER, "float64", "1", "largest load, over an even share", formula="E max_e f_e"
    ),
    "largest_load_chance": Variable(
        _LAYER, "float64", "1", f"largest load, over an even share{_CHANCE}"
    ),
    "idle": Variable(
        _LAYER, "float64", "1", "share of experts with less than a tenth of an even share"
    ),
    "idle_chance": Variable(_LAYER, "float64", "1", f"share of idle experts{_CHANCE}"),
    "token_information": Variable(
        _LAYER, "float64", "nats", "what the token says of its first expert"
    ),
    "token_information_chance": Variable(
        _LAYER, "float64", "nats", "what the token says of its first expert, tokens shuffled"
    ),
    "previous_information": Variable(
        _LAYER, "float64", "nats", "what the token before says of the first expert"
    ),
    "previous_information_chance": Variable(
        _LAYER, "float64", "nats", "what the token before says of the first expert, shuffled"
    ),
    "top_token": Variable(_TOP, "int32", "1", "token that goes to the expert", is_token=True),
    "top_token_lift": Variable(
        _TOP, "float64", "1", "how many times as often as any token it goes to the expert"
    ),
    "chosen": Variable(
        ("layer", "position", "choice"), "int32", "1", "expert that the token goes to"
    ),
}


def count_work(
    model: LensModel, tokens: Tokens, *, least: int, batch_size: int | None, seed: int
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    rows, cells = tokens.ids.shape[0], int(tokens.ids.numel())
    return Work(1.0, rows, CHOICE_BYTES * cells * model.n_layers)


@analysis(
    name="expert_use",
    question="Which experts serve which tokens, and is the load balanced?",
    source=f"{_SWITCH}; Jiang et al. (2024), Mixtral of Experts, arXiv 2401.04088",
    cost="1 pass, and one of a few tokens in which the routers are found",
    view="grid",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("experts",),
    lead="Each cell is an expert's share of the assignments in its layer; balance is 1 where all "
    "experts get the same, and _chance is what a router gets that chooses at random.",
    opens=open_expert,
)
def expert_use(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    least: int = 3,
    batch_size: int | None = None,
    seed: int = 0,
) -> None:
    """See which experts the routers of a mixture of experts choose, over one or more texts.

    The choice is the router's own, as the experts are handed it, not worked out again from its
    scores: families differ in biases, groups and scales. Experts that every token passes
    (shared ones) and those of an attention that chooses some as well (JetMoE) are not counted.
    An expert's number means nothing in another layer.

    Parameters
    ----------
    least
        How often a token has to occur to be named among those of an expert.
    batch_size
    seed
        Of what is drawn for the controls.

    Notes
    -----
    ``expert_load`` and ``expert_weight`` sum to 1 over the experts of a layer; layers with a
    dense MLP are NaN. ``token_information`` is the mutual information of a token's id and the
    expert that weighs most for it: near the entropy of the load, routing follows the token alone;
    near its ``_chance`` (the tokens shuffled, mean of 20), it does not. ``previous_information``
    is the same with the id of the token before. ``top_token`` names the tokens with the largest
    lift. ``chosen``, with one text only, holds each token's experts, the one that weighs most
    first.

    Raises
    ------
    ModelError
        The model has no router that says what it chose.

    Examples
    --------
    >>> import layerlens as ll
    >>> from layerlens.model.tiny import tiny_model
    >>> model = ll.load(tiny_model("mixtral"), None)
    >>> used = ll.expert_use(model, [[5, 6, 7, 8], [9, 6, 5]])
    >>> used.data.expert_load.sum("expert").values.round(6).tolist()
    [1.0, 1.0, 1.0]
    """
    least = whole(least, "least")
    if least < 1:
        raise InputError(f"least is {least}; expected a positive number.")
    routers = find_routers(model)
    run = _Run(job, model, tokens, routers)
    run.read(batch_size)
    for layer in routers:
        job.tick()
        run.show(layer, least, seed)
    run.check()


class _Run:
    """The work of one call."""

    def __init__(
        self, job: Job, model: LensModel, tokens: Tokens, routers: dict[int, Router]
    ) -> None:
        self.job, self.model, self.tokens, self.routers = job, model, tokens, routers
        self.found: dict[int, list[Choice]] = {layer: [] for layer in routers}
        self.ids = np.zeros(0, dtype=np.int64)
        self.before = np.zeros(0, dtype=np.int64)
        self.passes = 0
        self.differing = 0
        self.compared = False
        self._declare()

    def _declare(self) -> None:
        experts = max(router.n_experts for router in self.routers.values())
        choices = max(router.n_chosen for router in self.routers.values())
        sizes = {"layer": self.model.n_layers, "expert": experts, "k": TOP, "choice": choices}
        if self.tokens.single:
            sizes["position"] = self.tokens.ids.shape[1]
        coords: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            axis: ((axis,), np.arange(size, dtype=np.int32)) for axis, size in sizes.items()
        }
        if self.tokens.single:
            coords["token"] = (("position",), np.array(self.tokens.strings[0]))
            coords["input_id"] = (("position",), self.tokens.ids[0].numpy().astype(np.int32))
            coords["continues"] = (("position",), np.array(self.tokens.continues[0]))
        self.job.declare(sizes, coords)

    def read(self, batch_size: int | None) -> None:
        """Run all texts and keep what the routers chose for each real token."""
        batches = split(self.tokens, batch_size)
        for tokens, numbers in batches:
            batch = Batch(tokens, numbers)
            seen: dict[int, Tensor] = {}

            def keep(layer: int, choice: Choice, batch: Batch = batch) -> None:
                self.job.tick()
                seen[layer] = choice.experts  # noqa: B023 - called inside this turn only
                self.found[layer].append(_real(choice, batch))

            with watch_routers(self.model, self.routers, tokens, keep) as given:
                forward(self.model, tokens, [], lambda site, value: None, logits=None)
            for layer, experts in given.items():
                self.compared = True
                self.differing += int((experts != seen[layer]).sum())
            self._take(batch)
            self.passes += 1
            self.job.progress(self.passes, len(batches), "passes")

    def _take(self, batch: Batch) -> None:
        """Ids of the real tokens, and of those before them, -1 at the first of a text."""
        ids = batch.every.ids.numpy()
        before = np.concatenate([[-1], ids[:-1]])
        before[batch.every.position.numpy() == 0] = -1
        self.ids = np.concatenate([self.ids, ids])
        self.before = np.concatenate([self.before, before])

    def show(self, layer: int, least: int, seed: int) -> None:
        """Hand over what the choices of one layer amount to."""
        router = self.routers[layer]
        experts = torch.cat([choice.experts for choice in self.found[layer]]).numpy()
        weights = torch.cat([choice.weights for choice in self.found[layer]]).numpy()
        order = np.argsort(-np.abs(weights), axis=-1, kind="stable")
        experts, weights = (np.take_along_axis(x, order, -1) for x in (experts, weights))
        n, late = router.n_experts, self.before >= 0
        first = experts[:, 0]
        token, lift = tokens_of_experts(self.ids, experts, n, least)
        here = {"layer": layer}
        self.job.emit(
            here,
            {
                **even_usage(len(first), router.n_chosen, n, seed),
                "token_information": np.array(information(self.ids, first)),
                "token_information_chance": np.array(shuffled_information(self.ids, first, seed)),
                "previous_information": np.array(information(self.before[late], first[late])),
                "previous_information_chance": np.array(
                    shuffled_information(self.before[late], first[late], seed)
                ),
            },
        )
        used = dict(usage(experts, weights, n))
        each = {name: used.pop(name) for name in ("expert_load", "expert_weight")}
        self.job.emit(here, used)
        each |= {"top_token": token, "top_token_lift": lift}
        self.job.emit({**here, "expert": slice(0, n)}, each)
        if self.tokens.single:
            self.job.emit({**here, "choice": slice(0, router.n_chosen)}, {"chosen": experts})

    def check(self) -> None:
        """Say what was compared."""
        tokens, missed = len(self.ids), 0
        for layer in self.routers:
            missed += abs(sum(len(choice.experts) for choice in self.found[layer]) - tokens)
        self.job.check("tokens", missed, 0, "tokens fed whose experts were not seen")
        if self.compared:
            self.job.check(
                "choices", self.differing, 0, "choices of a router that its experts were not given"
            )
        dense = sorted(set(range(self.model.n_layers)) - set(self.routers))
        if dense:
            self.job.remark(
                f"Layers {', '.join(map(str, dense))} have no router: all their tokens take the "
                "same way."
            )
        self.job.note(passes=self.passes, tokens=tokens, texts=len(self.tokens.ids))


def _real(choice: Choice, batch: Batch) -> Choice:
    """The choices for tokens that are no padding."""
    mask = batch.tokens.mask.flatten()
    return Choice(choice.experts[mask], choice.weights[mask], choice.width)
