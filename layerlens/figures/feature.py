"""The page of a feature as a figure: how often it is on, what it writes, examples, a text."""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.canvas import (
    FONT,
    checks_line,
    new_figure,
    notes_height,
    write_notes,
    write_title,
)
from layerlens.figures.fonts import drawable, families
from layerlens.figures.palette import Palette, color_map, palette

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 8.6
_LINE = 0.165
_MONO = 0.602 * FONT / 72  # inches that a character of the typewriter font takes
_GAP = 0.03
_LEFT = 0.1
_TEXT = 2.3  # where texts of examples begin, behind their numbers
_HISTOGRAM = (2.9, 1.1)
_STRONGEST = 0.6  # of the colour that the strongest mark has
_TOP = 8  # of the strongest examples
_EACH = 2  # of a band
_LAYERS = 6  # that are named


def feature_figure(
    data: xr.Dataset,
    *,
    strength: float = 1.0,
    meaning: str = "",
    theme: str = "light",
    title: str | None = None,
) -> Figure:
    """Draw the page of a feature.

    Parameters
    ----------
    data : xarray.Dataset
        The data of ``ll.feature``.
    strength : float
        Of the texts that were written with the feature, the one that is shown; the nearest that
        was tried.
    meaning : str
        What someone wrote that the feature means.
    theme : {"light", "dark", "auto"}
        ``auto`` is light.
    title : str, optional
        Instead of the feature's name.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ResultError
        The result is not of a feature.
    """
    if not {"example", "offset", "strength"} <= set(data.dims):
        raise ResultError("This result is not of ll.feature: it has no examples of a feature.")
    colors = palette(theme)
    lines = [*_examples(data), *_written(data, strength)]
    notes = [*json.loads(data.attrs.get("notes", "[]")), checks_line(data)]
    notes = [note for note in notes if note]
    bottom = notes_height(notes, _WIDTH) + 0.1
    below = [meaning and f"Means: {meaning}", _said(data), _where(data)]
    below = [line for line in below if line]
    head = 0.5 + 0.14 * len(below) + _HISTOGRAM[1] + 0.5
    height = head + _LINE * len(lines) + bottom
    figure = new_figure((_WIDTH, height), colors)
    page = figure.add_axes((0, 0, 1, 1), frameon=False, xlim=(0, _WIDTH), ylim=(0, height),
                           xticks=[], yticks=[])  # fmt: skip
    top = height - 0.5 - 0.14 * len(below)
    _histogram(figure, data, top, colors)
    _weights(page, data, top, colors)
    for i, line in enumerate(lines):
        _draw(page, line, height - head - _LINE * i, colors)
    write_title(figure, title if title is not None else _name(data), colors, below)
    write_notes(figure, notes, colors)
    return figure


def _name(data: xr.Dataset) -> str:
    layers = json.loads(data.attrs["dictionary_layers"])
    where = f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers"
    of = f"{data.attrs['site']} of {where} of {data.attrs.get('model', '')}"
    return f"Feature {data.attrs['number']} of {int(data.features)}: {of}"


def _said(data: xr.Dataset) -> str:
    """How often it is on, in a sentence."""
    layers = len(json.loads(data.attrs["dictionary_layers"]))
    counted = f"{int(data.counted) // layers} tokens"
    if layers > 1:
        counted += f" in {layers} layers"
    if not int(data.firings):
        return f"On at none of {counted}."
    shuffled = ""
    if "shuffled_density" in data:
        shuffled = f" ({float(data.shuffled_density):.2%} with the texts shuffled)"
    return (
        f"On at {float(data.density):.2%} of {counted}{shuffled}; "
        f"{float(data.sparser):.0%} of the other features are on less often. "
        f"Strongest: {float(data.largest):.3g}."
    )


def _where(data: xr.Dataset) -> str:
    """In which layers it is on, the most first; empty for a dictionary of one."""
    if "layer_share" not in data:
        return ""
    shares, others = data.layer_share.values, data.all_layer_share.values
    most = np.argsort(-shares, kind="stable")[:_LAYERS]
    said = [f"layer {data.layer.values[i]} {shares[i]:.0%} ({others[i]:.0%})" for i in most]
    return f"Where it is on (all features): {', '.join(said)}."


Line = dict[str, Any]
"""A line of the page: `words` at the left, `numbers` behind them, and `tokens` with marks."""


def _examples(data: xr.Dataset) -> list[Line]:
    group, activation = data["group"].values, data["activation"].values
    found: list[Line] = []
    if np.isfinite(activation[group == 0]).any():
        found.append({"head": "The strongest, one in a text; without it the next token moves by "
                              "so many nats (by so many along another feature)"})  # fmt: skip
        for rank in np.flatnonzero((group == 0) & np.isfinite(activation))[:_TOP]:
            moved = [float(data[name][rank]) for name in ("kl_without", "other_kl_without")]
            numbers = f"{moved[0]:.2g} ({moved[1]:.2g})"
            found.append(_example(data, int(rank)) | {"numbers": numbers})
    for band in range(data.sizes["band"]):
        count = int(data.band_count[band])
        if count <= 0:
            continue
        share = count / int(data.firings)
        ends = f"From {float(data.band_from[band]):.3g} to {float(data.band_to[band]):.3g}"
        found.append({"head": f"{ends}: {count} tokens, {share:.1%} of those that it is on for"})
        those = np.flatnonzero((group == band + 1) & np.isfinite(activation))[:_EACH]
        found += [_example(data, int(example)) for example in those]
    return found


def _example(data: xr.Dataset, example: int) -> Line:
    ids, values = data.context_token.values[example], data.context_activation.values[example]
    largest = float(data.largest) or 1.0
    names = _names(data, "context_token")[example]
    tokens = [
        (drawable(names[k]), max(0.0, float(np.nan_to_num(values[k]))) / largest, k)
        for k in range(len(ids))
        if ids[k] >= 0
    ]
    return {
        "words": f"{float(data.activation[example]):.3g}",
        "tokens": _around(tokens, len(ids) // 2, int((_WIDTH - _TEXT - 0.1) / _MONO)),
        "own": len(ids) // 2,
    }


def _around(
    tokens: list[tuple[str, float, int]], middle: int, room: int
) -> list[tuple[str, float, int]]:
    """As many tokens on both sides of one as there is room for."""
    kept = tokens
    while len(kept) > 1 and sum(_columns(token[0]) + _GAP / _MONO for token in kept) > room:
        kept = kept[1:] if middle - kept[0][2] > kept[-1][2] - middle else kept[:-1]
    return kept


def _written(data: xr.Dataset, strength: float) -> list[Line]:
    """The text that is gone on from, and what was written."""
    if int(data.steered_layer) < 0:
        return []
    tried = data["strength"].values
    at = int(np.abs(tried - strength).argmin())
    other = int(data.other_feature)
    rows = [
        ("goes on from", "prompt_token", None, ""),
        ("by itself", "own_token", None, ""),
        (f"feature {data.attrs['number']}", "steered_token", at, "steer_kl"),
    ]
    if other >= 0:
        rows.append((f"feature {other} instead", "other_steered_token", at, "other_steer_kl"))
    found: list[Line] = [{"head": f"Steered with strength {tried[at]:g}; so many nats move the "
                                  "first token"}]  # fmt: skip
    for words, name, index, moved in rows:
        ids, names = data[name].values, _names(data, name)
        if index is not None:
            ids, names = ids[index], names[index]
        tokens = [(drawable(n), 0.0, k) for k, (i, n) in enumerate(zip(ids, names, strict=True))
                  if i >= 0]  # fmt: skip
        numbers = f"{float(data[moved][index]):.2g}" if moved else ""
        kept = _around(tokens, 0, int((_WIDTH - _TEXT - 0.1) / _MONO))
        found.append({"words": words, "numbers": numbers, "tokens": kept})
    return found


def _names(data: xr.Dataset, name: str) -> np.ndarray:
    """The tokens of an array, as words; "" where there is none."""
    vocab: dict[str, str] = json.loads(data.attrs.get("vocab", "{}"))
    ids = data[name].values
    words = ["" if i < 0 else vocab.get(str(int(i)), f"[{i}]") for i in ids.flat]
    found: np.ndarray = np.array(words, dtype=object).reshape(ids.shape)
    return found


def _histogram(figure: Figure, data: xr.Dataset, top: float, colors: Palette) -> None:
    """Strengths of its activations, and of the texts shuffled."""
    width, height = figure.get_size_inches()
    box = (0.45 / width, (top - _HISTOGRAM[1] - 0.1) / height, _HISTOGRAM[0] / width,
           _HISTOGRAM[1] / height)  # fmt: skip
    axes = figure.add_axes(box, facecolor="none")
    counts, ends = np.maximum(data["count"].values, 0), data["bin_top"].values
    others = np.maximum(data["shuffled_count"].values, 0) if "shuffled_count" in data else None
    used = np.flatnonzero(counts + (0 if others is None else others))
    last = int(used[-1]) + 1 if len(used) else 1
    edges = np.concatenate([[0.0], ends[:last]])
    if len(used):
        axes.stairs(counts[:last] / max(1, counts.sum()), edges, fill=True, color=colors.base,
                    label="activation, when on")  # fmt: skip
        if others is not None:
            axes.stairs(others[:last] / max(1, others.sum()), edges, color=colors.ink,
                        linewidth=0.9, label="texts shuffled")  # fmt: skip
        legend = axes.legend(fontsize=FONT - 1, frameon=False, loc="upper right")
        for text in legend.get_texts():
            text.set_color(colors.ink)
    axes.tick_params(labelsize=FONT - 1, colors=colors.faint, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(colors.faint)
    axes.set_ylabel("share", fontsize=FONT, color=colors.faint)


def _weights(page: Axes, data: xr.Dataset, top: float, colors: Palette) -> None:
    """The tokens that it raises and lowers, and the features nearest to it."""
    columns: list[tuple[str, list[str]]] = []
    count = int(_HISTOGRAM[1] / 0.14)
    if "effect_token" in data:
        for side, name in enumerate(("raises", "lowers")):
            names = _names(data, "effect_token")[side][:count]
            scores = data.effect_score.values[side]
            chance = data.random_effect_score.values[side]
            listed = [f"{drawable(n)} {s:.2g} ({r:.2g})"
                      for n, s, r in zip(names, scores, chance, strict=False)]  # fmt: skip
            columns.append((f"{name} (random)", listed))
    near = data.neighbour.values
    listed = [f"{n}  {c:.2f} ({r:.2f})" for n, c, r in
              zip(near, data.neighbour_cosine.values, data.random_cosine.values, strict=True)
              if n >= 0][:count]  # fmt: skip
    columns.append(("nearest features, cosine (random)", listed))
    for column, (name, listed) in enumerate(columns):
        x = 3.7 + 1.5 * column
        _say(page, x, top - 0.02, name, colors.faint)
        for i, words in enumerate(listed):
            _say(page, x, top - 0.18 - 0.14 * i, words, colors.ink)


def _draw(page: Axes, line: Line, y: float, colors: Palette) -> None:
    if "head" in line:
        _say(page, _LEFT, y, line["head"], colors.faint)
        return
    _say(page, _LEFT + 0.1, y, line["words"], colors.ink)
    _say(page, _LEFT + 1.2, y, line.get("numbers", ""), colors.faint)
    ramp, x = color_map("base", colors), _TEXT
    for words, mark, place in line["tokens"]:
        own = place == line.get("own", -1)
        box = None
        if mark > 0:
            box = {"boxstyle": "square,pad=0.12", "linewidth": 0,
                   "facecolor": ramp(_STRONGEST * min(1.0, mark))}  # fmt: skip
        page.text(x, y, words, fontsize=FONT, family=["DejaVu Sans Mono", *families()],
                  color=colors.ink, weight="bold" if own else "normal", va="center",
                  parse_math=False, bbox=box, gid="token")  # fmt: skip
        x += _columns(words) * _MONO + _GAP


def _say(page: Axes, x: float, y: float, words: str, color: str) -> None:
    page.text(x, y, words, fontsize=FONT, family=list(families()), color=color, va="center",
              parse_math=False)  # fmt: skip


def _columns(words: str) -> int:
    """How many characters wide a word is."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in words)
