"""Which causal language models of transformers layerlens can prove, family by family.

``python -m layerlens.model.support`` builds every family tiny, with random weights, each
in a process of its own, finds its anatomy and proves it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from layerlens.errors import ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.model.tiny_families import VARIANTS

#: What may come out, from best to worst, with the heading it has in the table.
OUTCOMES = {
    "full": "proven in full",
    "partly": "proven without heads",
    "refused": "refused",
    "unbuilt": "could not be built",
}

SECONDS = 60.0
BYTES = 4 << 30
PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"


@dataclass(frozen=True)
class Support:
    """What came out for one family.

    Attributes
    ----------
    model_type
        ``model_type`` of its configuration, with ``(variant)`` after it for a variant.
    outcome
        A key of :data:`OUTCOMES`.
    reason
        Why it is not proven in full, in one sentence; empty where it is.
    cls
        The class of transformers.
    layout, attention, heads
        As in :class:`layerlens.model.anatomy.BlockAnatomy`, over all blocks.
    """

    model_type: str
    outcome: str
    reason: str = ""
    cls: str = ""
    layout: str = ""
    attention: str = ""
    heads: str = ""

    def row(self) -> str:
        """As a row of a Markdown table."""
        result = OUTCOMES[self.outcome] + (f": {self.reason}" if self.reason else "")
        cells = (self.model_type, self.cls, self.layout, self.attention, self.heads, result)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def examine(model_type: str, **overrides: Any) -> Support:
    """Build a family tiny, find its anatomy and prove it.

    Parameters
    ----------
    model_type
        ``model_type`` of a configuration of transformers.
    **overrides
        Configuration attributes of a variant.
    """
    from layerlens.run.proof import prove_anatomy

    try:
        hf = tiny_model(model_type, **overrides)
        with torch.inference_mode():
            hf(input_ids=torch.arange(3, 10)[None], use_cache=False)
    except Exception as error:  # whatever a class of transformers raises
        cls = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        return Support(model_type, "unbuilt", _sentence(error), str(cls))
    cls = type(hf).__name__
    try:
        model = LensModel.wrap(hf, name=model_type, prove=False)
        proof = prove_anatomy(model)
    except ModelError as error:
        return Support(model_type, "refused", _sentence(error), cls)
    if not proof.ok:
        line = next(line for line in proof.lines if not line.ok)
        reason = f"it does not hold that {line.what} (off by {line.error:.2g})"
        return Support(model_type, "refused", reason, cls)
    blocks = model.anatomy.blocks
    layouts = dict.fromkeys(block.layout for block in blocks)
    routes = dict.fromkeys(block.attention or "none" for block in blocks if block.mixer)
    return Support(
        model_type,
        "full" if proof.full else "partly",
        "; ".join(proof.notes),
        cls,
        ", ".join(layouts),
        ", ".join(routes),
        f"{model.n_heads} / {model.n_kv_heads}",
    )


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:237] + "..."


def _child(pipe: Any, model_type: str, overrides: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    pipe.send(examine(model_type, **overrides))


def survey(
    wanted: Iterable[tuple[str, str, dict[str, Any]]], processes: int = 2
) -> Iterator[Support]:
    """Examine families, each in a process with a limit on its time and memory.

    Parameters
    ----------
    wanted
        ``(label, model_type, overrides)``.
    processes
        How many run at a time.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    waiting = list(wanted)[::-1]
    running: dict[Any, tuple[Any, str, str, float]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            label, model_type, overrides = waiting.pop()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(theirs, model_type, overrides))
            process.start()
            theirs.close()
            running[ours] = (process, label, model_type, time.monotonic() + SECONDS)
        ready = multiprocessing.connection.wait(list(running), timeout=1.0)
        late = [pipe for pipe, entry in running.items() if time.monotonic() > entry[3]]
        for pipe in dict.fromkeys([*ready, *late]):
            process, label, model_type, _ = running.pop(pipe)
            yield _collect(pipe, process, label, model_type)


def _collect(pipe: Any, process: Any, label: str, model_type: str) -> Support:
    try:
        found = pipe.recv() if pipe.poll() else None
        reason = "" if found else f"it took longer than {SECONDS:.0f} s"
    except EOFError:
        found, reason = None, "its process ended without an answer"
    process.kill()
    process.join()
    pipe.close()
    if found is None:
        cls = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        return Support(label, "unbuilt", reason, str(cls))
    return Support(**{**found.__dict__, "model_type": label})


def all_families() -> list[tuple[str, str, dict[str, Any]]]:
    """Every causal-LM model type and the variants, as ``(label, model_type, overrides)``."""
    names = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    families: list[tuple[str, str, dict[str, Any]]] = [(name, name, {}) for name in names]
    variants = [
        (f"{name} ({label})", name, overrides)
        for name, several in VARIANTS.items()
        for label, overrides in several.items()
    ]
    return sorted(families + variants)


def summary(found: Iterable[Support]) -> str:
    """Say how many came out how, in one line."""
    counts = Counter(support.outcome for support in found)
    return ", ".join(f"{counts[key]} {text}" for key, text in OUTCOMES.items())


def page(found: list[Support]) -> str:
    """Write the table of families as a Markdown page."""
    types = [support for support in found if "(" not in support.model_type]
    variants = [support for support in found if "(" in support.model_type]
    head = "| model type | class | layout | attention | heads / key-value heads | result |"
    line = "| --- | --- | --- | --- | --- | --- |"
    return "\n".join(
        [
            "# Model families",
            "",
            f"Every causal language model of transformers {transformers.__version__}, built tiny "
            "with random weights; its anatomy was found by watching a pass and compared with the "
            "model's own numbers. A family that is not proven is refused, never guessed.",
            "",
            f"Of {len(types)} model types: {summary(types)}.",
            "",
            "*interface*: the attention is watched where transformers' attention interface calls "
            "it; *spy*: in the family's own code while it runs; *none*: no softmax attention that "
            "could be watched. A real checkpoint is proven again each time it is loaded.",
            "",
            "This page is written by `python -m layerlens.model.support --write`.",
            "",
            *[head, line, *(support.row() for support in types)],
            "",
            "## Variants",
            "",
            "Configurations of the same families that build their blocks differently.",
            "",
            *[head, line, *(support.row() for support in variants)],
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m layerlens.model.support", description=__doc__)
    parser.add_argument("--only", default="", help="model types, separated by commas")
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    only = set(options.only.split(",")) - {""}
    wanted = [entry for entry in all_families() if not only or entry[1] in only]
    found = []
    for support in survey(wanted, options.processes):
        found.append(support)
        print(support.row(), flush=True)
    print(summary(found))
    if options.write and not only:
        found.sort(key=lambda support: support.model_type)
        PAGE.write_text(page(found), encoding="utf-8")
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
