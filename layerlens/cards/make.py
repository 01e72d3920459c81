"""Make a card: run what every card has, and put the author's words beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerlens.analyses.attention.head_roles import head_roles
from layerlens.analyses.lenses.logit_lens import logit_lens
from layerlens.analyses.measuring.checkpoint_difference import checkpoint_difference
from layerlens.analyses.measuring.layer_metrics import layer_metrics
from layerlens.cards.card import NOT_STATED, Card, Part, Sheet
from layerlens.errors import Cancelled, InputError, LayerLensError
from layerlens.model.abilities import ABILITIES
from layerlens.model.required import require_model
from layerlens.model.tested import installed

if TYPE_CHECKING:
    from layerlens.model.evidence import Proof
    from layerlens.model.lensmodel import LensModel
    from layerlens.result import Result

FACTS: Mapping[str, str] = {
    "The capital of France is": " Paris",
    "The capital of Japan is": " Tokyo",
    "The capital of Italy is": " Rome",
    "The opposite of hot is": " cold",
    "The opposite of up is": " down",
    "Monday, Tuesday,": " Wednesday",
    "One, two, three,": " four",
    "The largest ocean is the": " Pacific",
}
"""The standard set: what is asked, and the token that answers it."""

METRICS = ("residual_norm", "block_influence", "attn_influence", "mlp_influence")


def card(
    model: LensModel,
    texts: Iterable[str] | None = None,
    *,
    base: LensModel | None = None,
    facts: Mapping[str, str] | None = None,
    licence: str | None = None,
    intended_use: str | None = None,
    factors: str | None = None,
    training_data: str | None = None,
    ethics: str | None = None,
    caveats: str | None = None,
    figures: bool = True,
) -> Card:
    """Make the card of a model: measured where it can be, in the author's words where not.

    The sections are those of Mitchell et al. Nothing is invented: what the author does not state is
    said not to be stated, and what could not be measured is named with its reason.

    Parameters
    ----------
    model : LensModel
        Whose card it is.
    texts : iterable of str, optional
        What its layers are measured on; by itself the facts of the standard set as sentences.
    base : LensModel, optional
        The model that it was made from: the card says how its weights differ.
    facts : mapping of str to str, optional
        What is asked, and the token that answers it; by itself `FACTS`.
    licence, intended_use, factors, training_data, ethics, caveats : str, optional
        What only the author knows. A licence is also read from the README of the model's folder.
    figures : bool
        Whether pages of the card have the figures of what was measured.

    Returns
    -------
    Card
        Shows itself in a cell; `Card.html`, `Card.markdown` and `Card.json` write it.

    Raises
    ------
    InputError
        There are no texts, no facts, or a README whose head cannot be read.
    Cancelled
        It was interrupted; ``partial`` is the card as far as it had come.

    Notes
    -----
    Sections: Mitchell and others (2019), *Model Cards for Model Reporting*. The measures are the
    analyses that the section on metrics names, as they are when called alone. Costs: a pass over
    the texts, one for each fact, one over random tokens for the heads, and with a base as many
    products of matrices as both have weights.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> made = ll.card(model, ["cat dog owl cat"], facts={"cat dog owl cat": "dog"})
    >>> made.part("Quantitative analyses").sheets[1].rows
    (('cat dog owl cat', 'dog', 1, 1.0, 1),)
    """
    require_model(model)
    asked = dict(FACTS if facts is None else facts)
    given = None if texts is None else list(texts)
    if given == [] or not asked:
        raise InputError("A card needs one text and one fact at least; None takes its own.")
    texts = given or [f"{question}{answer}." for question, answer in asked.items()]
    found = _licence(model) if licence is None else licence
    made = Card(model.name, _facts(model, found), [])
    given_by = "given by the author" if given else "the standard set of facts, as sentences"
    said = {
        "Model details": _details(model, found),
        "Intended use": [intended_use or NOT_STATED],
        "Factors": [factors or NOT_STATED],
        "Metrics": [METRICS_SAID],
        "Evaluation data": [
            f"{len(texts)} texts ({given_by}); {len(asked)} facts, each asked once."
        ],
        "Training data": [training_data or NOT_STATED],
        NUMBERS: [],
        "Ethical considerations": [ethics or NOT_STATED],
        CAVEATS: [caveats or NOT_STATED, *_limits(model)],
    }
    made.parts += [Part(title, lines) for title, lines in said.items()]
    if model.proof is not None:
        made.part("Model details").sheets.append(_proof(model.proof))
    try:
        _measure(made, model, texts, asked, base, figures)
    except (KeyboardInterrupt, Cancelled):
        error = Cancelled("The card was stopped; .partial has the sections that were done.")
        error.partial = made
        raise error from None
    return made


NUMBERS, CAVEATS = "Quantitative analyses", "Caveats and recommendations"

METRICS_SAID = (
    "Norm: the mean length of a token's state after the block. Influence of a block, its attention "
    "or its MLP: 1 minus the cosine of the state before and after; 0 where nothing is changed. "
    "Heads: how many attend where a named role says they should, on random tokens that repeat, "
    "more than chance lets them. Facts: the rank and the probability of the answer, and the layer "
    "from which on the logit lens has it on top."
)


def _measure(
    made: Card,
    model: LensModel,
    texts: list[str],
    asked: dict[str, str],
    base: LensModel | None,
    figures: bool,
) -> None:
    """Fill the section of numbers, and note in the last one what could not be measured."""
    part, caveats = made.part(NUMBERS), made.part(CAVEATS)
    layers: dict[str, list[Any]] = {}

    def attempt(what: str, measure: Callable[[], tuple[str, list[Result]]]) -> None:
        try:
            caption, results = measure()
        except Cancelled:
            raise
        except LayerLensError as error:
            caveats.lines.append(f"Not measured: {what}. {error}")
            return
        for result in results:
            caveats.lines += [
                f"A check of {result.code} did not hold: {check.name}."
                for check in result.checks
                if not check.ok
            ]
        if figures:
            part.figures.append((caption, results[0]))

    def measured() -> tuple[str, list[Result]]:
        result = layer_metrics(model, texts, list(METRICS))
        layers.update(_by_layer(model, result))
        return "What each block does to the residual stream", [result]

    def heads() -> tuple[str, list[Result]]:
        result = head_roles(model)
        layers["heads with a role"] = _roles(result)
        return "Which role each head has", [result]

    def known() -> tuple[str, list[Result]]:
        sheet, lenses = _known(model, asked)
        part.sheets.append(sheet)
        return "How the first of the facts comes about", lenses

    def differs() -> tuple[str, list[Result]]:
        result = checkpoint_difference(model, other=base)
        layers["weights changed, of their length"] = result.data.layer_relative.values.tolist()
        return f"How the weights differ from those of {base.name if base else ''}", [result]

    attempt("what the layers do", measured)
    attempt("what the heads do", heads)
    if base is not None:
        attempt(f"the difference from {base.name}", differs)
    if layers:
        rows = tuple(zip(range(model.n_layers), *layers.values(), strict=True))
        part.sheets.append(Sheet("Each layer at a glance", ("layer", *layers), rows))
    attempt("what it knows", known)


def _by_layer(model: LensModel, result: Result) -> dict[str, list[Any]]:
    data = result.data
    after = data.residual_norm.sel(point=[f"{layer}_post" for layer in range(model.n_layers)])
    named = {"influence": "block", "of attention": "attn", "of the MLP": "mlp"}
    return {
        "norm after": after.values.tolist(),
        **{label: data[f"{name}_influence"].values.tolist() for label, name in named.items()},
    }


def _roles(result: Result) -> list[str]:
    roles = [str(role).replace("_", " ") for role in result.data.role.values]
    found = []
    for row in result.data.best_role.values:
        counts = Counter(roles[int(one)] for one in row if one >= 0)
        found.append(", ".join(f"{n} {role}" for role, n in counts.most_common()) or "none")
    return found


def _known(model: LensModel, asked: dict[str, str]) -> tuple[Sheet, list[Result]]:
    rows: list[tuple[Any, ...]] = []
    lenses = []
    for question, answer in asked.items():
        lens = logit_lens(model, question, tracked=[answer])
        lenses.append(lens)
        rank = int(lens.data.tracked_rank[-1, -1, 0])
        settled = int(lens.data.settle_layer[-1]) if rank == 1 else None
        chance = float(lens.data.tracked_probability[-1, -1, 0])
        rows.append((question, answer, rank, round(chance, 4), settled))
    right = sum(row[2] == 1 for row in rows)
    caption = f"Facts: {right} of {len(rows)} are the likeliest next token"
    return Sheet(
        caption, ("asked", "answer", "rank", "probability", "settles"), tuple(rows)
    ), lenses


def _facts(model: LensModel, licence: str | None) -> dict[str, Any]:
    said = {"library_name": "transformers", "model_name": model.name, "tags": ["layerlens"]}
    return said if licence is None else {**said, "license": licence}


def _details(model: LensModel, licence: str | None) -> list[str]:
    size = sum(parameter.numel() for parameter in model.hf.parameters())
    versions = ", ".join(
        f"{name} {installed(name)}" for name in ("transformers", "torch") if installed(name)
    )
    heads = f", {model.n_heads} heads in each" if model.n_heads else ""
    proof = model.proof
    told = "was not asked for" if proof is None else "holds" if proof.ok else "does not hold"
    return [
        f"Type {model.anatomy.family}: {model.n_layers} layers{heads}, width {model.d_model}, a "
        f"vocabulary of {model.d_vocab:,}; {size:,} parameters, "
        f"{str(model.dtype).removeprefix('torch.')}. Looked at with {versions}.",
        f"The proof of its anatomy {told}.",
        f"Licence: {licence or NOT_STATED}",
    ]


def _proof(proof: Proof) -> Sheet:
    rows = tuple(
        (
            line.name,
            float(line.error),
            float(line.limit),
            "holds" if line.ok else "fails",
            line.what,
        )
        for line in proof.lines
    )
    return Sheet("The proof, line by line", ("line", "error", "limit", "", "what"), rows)


def _limits(model: LensModel) -> list[str]:
    """Why some analyses refuse this model, one line for each ability that it lacks."""
    reasons = (lacks(model) for lacks in ABILITIES.values())
    return [f"Some analyses refuse it: it {reason.split(':')[0]}." for reason in reasons if reason]


def _licence(model: LensModel) -> str | None:
    """Return the licence that the README beside the weights names."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    readme = Path(str((model.recipe or {}).get("source") or "")) / "README.md"
    if not readme.is_file():
        return None
    try:
        said = ModelCard.load(readme).data.get("license")
    except (ValueError, YAMLError) as error:
        raise InputError(
            f"The head of '{readme}' could not be read ({str(error).splitlines()[0]}): mend it, or "
            "state licence=."
        ) from None
    return None if said is None else str(said)
