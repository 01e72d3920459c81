"""What must stand before the call that makes a result, so that it runs as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def setup_code(attrs: Mapping[str, Any]) -> str:
    """Return the import and the loading of the models that a result was made with.

    Parameters
    ----------
    attrs : mapping
        Attributes as a result has them: ``code``, ``model``, ``load`` (the call, empty for a model
        in memory), of a second model that the code names ``other_model`` (or ``other``) and
        ``other_load``, and of several ``others_load``, a JSON list.
    """
    lines = ["import layerlens as ll", ""]
    if attrs.get("given"):
        return "\n".join([*lines, "# Put your attention and tokens in place."]) + "\n"
    lines += _loaded("model", str(attrs.get("load", "")), str(attrs.get("model", "")))
    code = str(attrs.get("code", ""))
    if any(named in code for named in ("(other, ", "(other)", "other=other")):
        name = str(attrs.get("other_model", attrs.get("other", "")))
        lines += _loaded("other", str(attrs.get("other_load", "")), name)
    if "others=others" in code or "(model, others" in code:
        calls = json.loads(str(attrs.get("others_load", "[]")))
        loaded = ", ".join(call or "ll.load(hf, tokenizer)" for call in calls)
        if not all(calls):
            lines.append("# Models in memory: put yours in place of hf and tokenizer.")
        lines.append(f"others = [{loaded}]")
    return "\n".join(lines) + "\n"


def _loaded(variable: str, call: str, name: str) -> list[str]:
    if call:
        return [f"{variable} = {call}"]
    said = f"# {name} was a model in memory: put yours in place of hf and tokenizer."
    return [said, f"{variable} = ll.load(hf, tokenizer)"]
