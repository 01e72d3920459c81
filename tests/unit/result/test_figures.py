"""Figures: every cell is there, its colour and its text are right, and nothing warns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import handmade as made
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from layerlens.errors import ResultError
from layerlens.figures import quick
from layerlens.figures.fonts import drawable
from layerlens.figures.images import image_bytes
from layerlens.figures.layout import fitted
from layerlens.figures.palette import ink_on, palette
from layerlens.result import Check, Checks

pytestmark = pytest.mark.filterwarnings("error")


def texts(figure: Figure, kind: str) -> list[str]:
    found = figure.findobj(lambda artist: artist.get_gid() == kind)
    return [artist.get_text() for artist in found]


def mesh(figure: Figure):
    return figure.axes[0].collections[0]


def test_every_cell_has_its_colour_and_its_text() -> None:
    result = made.result()
    figure = result.figure()
    cells = mesh(figure)
    assert cells.get_array().shape == (8, 9)
    assert np.allclose(cells.get_array(), result.data.probability.isel(k=0))
    figure.canvas.draw()
    colors = cells.get_facecolor().reshape(8, 9, 4)
    assert (np.diff(colors[:, 0, 0]) < 0).all()  # more probable: further from white
    assert len(texts(figure, "cell")) == 72
    assert {"␣<script>…", "The", "␣$x^2$"} <= set(texts(figure, "cell"))
    # code points stand in where no font here has the characters
    assert any(text.startswith(drawable("日本")[:6]) for text in texts(figure, "cell"))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "final"
    prompt = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert prompt[:2] == ["<s>", "The"]
    assert prompt[5] == "⋯"
    assert prompt[7] == "↵"


def test_pixels_of_a_picture() -> None:
    from io import BytesIO

    from PIL import Image

    data = made.result(tokens=["a", "b"])
    figure = data.figure(theme="dark")
    picture = Image.open(BytesIO(image_bytes(figure, "png", dpi=100))).convert("RGB")
    page = tuple(round(255 * c) for c in to_rgb(palette("dark").page))
    assert picture.getpixel((2, 2)) == page
    box = figure.axes[0].get_position()
    x = int((box.x0 + 0.03 * box.width) * picture.width)
    top = int((1 - box.y1) * picture.height) + 3
    bottom = int((1 - box.y0) * picture.height) - 3
    assert picture.getpixel((x, top))[2] > picture.getpixel((x, bottom))[2]


@pytest.mark.parametrize("color", ["probability", "entropy", "rank", "kl", "tracked"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_colour_in_each_theme(color: str, theme: str) -> None:
    figure = made.result().figure(color=color, theme=theme, tracked=1)
    assert image_bytes(figure, "png", dpi=50).startswith(b"\x89PNG")
    words = figure.axes[1].get_ylabel().replace("\n", " ")
    expected = {"entropy": "nats", "kl": "nats", "rank": "1 = best"}.get(color, "probability")
    assert expected in words


def test_missing_cells_are_grey() -> None:
    result = made.result()
    result.data["probability"].values[2, 3] = np.nan
    figure = result.figure()
    figure.canvas.draw()
    color = mesh(figure).get_facecolor().reshape(8, 9, 4)[2, 3, :3]
    assert np.allclose(color, to_rgb(palette("light").missing), atol=1e-6)


def test_long_prompts_show_every_token_and_say_what_is_not_written() -> None:
    figure = made.result(30, ["tok"] * 300).figure()
    assert mesh(figure).get_array().shape == (62, 300)
    assert texts(figure, "cell") == []
    [note, _] = sorted(texts(figure, "note"), key=lambda text: "checks" in text)
    assert "too small for their tokens: draw fewer" in note
    assert "one token in 3 is labelled, all are drawn" in note
    wide = made.result(3, ["tok"] * 300).figure(cell_width=0.6)
    assert len(texts(wide, "cell")) == 8 * 300
    with pytest.raises(ResultError, match="too many for one figure"):
        made.result(1, ["x"] * 40_000).figure()


def marked(figure: Figure, kind: str) -> list[tuple[float, float]]:
    """The lower left corners of what is marked in the cells."""
    found = figure.axes[0].patches
    return [(round(p.get_x(), 2), round(p.get_y(), 2)) for p in found if p.get_gid() == kind]


def test_a_transposed_table_has_tokens_down_and_points_across() -> None:
    result = made.result()
    upright, across = result.figure(), result.figure(transposed=True)
    shown = mesh(across).get_array()
    assert shown.shape == (9, 8)
    assert np.allclose(shown, mesh(upright).get_array().T[::-1])
    rows = [label.get_text() for label in across.axes[0].get_yticklabels()]
    assert rows[:2] == ["<s>", "The"]  # from the top
    assert across.axes[0].get_xticklabels()[-1].get_text() == "final"


@pytest.mark.parametrize("transposed", [False, True])
def test_pins_and_the_chosen_cell_are_marked_where_they_are(transposed: bool) -> None:
    result = made.result()
    top = result.data["token_id"].values[:, 2, 0]
    pin = {"position": -7, "id": int(top[5])}
    figure = result.figure(pins=[pin], selected=(-1, 4), transposed=transposed)
    points = np.flatnonzero(top == top[5])
    assert len(points) < 8
    place = (lambda p, t: (p, 8 - t)) if transposed else (lambda p, t: (t, p))
    assert marked(figure, "pin") == [place(int(p), 2) for p in points]
    assert set(marked(figure, "selected")) == {place(7, 4)}
    assert texts(figure, "pin name") == [f"{drawable(made.VOCAB[str(top[5])])} at position 2"]
    window = result.figure(pins=[pin], selected=(7, 4), positions=[2], transposed=transposed)
    assert len(marked(window, "pin")) == len(points)
    assert marked(window, "selected") == []
    with pytest.raises(ResultError, match="no position 9 to mark"):
        result.figure(pins=[{"position": 9, "id": 0}])


def test_ranks_have_the_colours_of_the_view() -> None:
    assert mesh(made.result().figure(color="rank")).get_cmap().name == "viridis"


def test_a_window_says_that_it_is_one() -> None:
    figure = made.result().figure(positions=slice(-3, None), points="post")
    assert mesh(figure).get_array().shape == (4, 3)
    assert "3 of 9 tokens drawn; 4 of 8 points drawn" in texts(figure, "note")
    assert mesh(made.result().figure(positions=-1, points=["final"])).get_array().shape == (1, 1)


def test_checks_are_part_of_the_figure() -> None:
    assert any(
        "1 of 2 checks not ok: <i>sum</i>" in note for note in texts(made.result().figure(), "note")
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"color": "beauty"},
            "kl_between, written, margin or tracked",
        ),
        ({"color": "tracked", "tracked": 2}, "tracks 2 tokens"),
        ({"theme": "blue"}, "no theme 'blue'"),
        ({"positions": 9}, "no position 9"),
        ({"points": "mids"}, "choose all, post, mid or labels"),
        ({"points": ["9_post"]}, "no point '9_post'"),
        ({"every": 0}, "every is 0"),
        ({"kind": "pie"}, "no figure 'pie'; choose one of .*lens, patch"),
        ({"kind": "trajectories", "position": 9}, "no position 9"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ResultError, match=message):
        made.result().figure(**options)


def test_one_row_in_so_many_with_the_last_one_kept() -> None:
    figure = made.result().figure(every=3)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    every = [str(label) for label in made.result().data.point.values]
    assert labels == every[::-3]
    assert mesh(figure).get_array().shape[0] == len(labels)
    assert any("3 of 8 points drawn" in note for note in texts(figure, "note"))


def test_a_lens_has_the_checks_of_what_it_shows() -> None:
    result = made.result()
    names = ("KL at final is zero", "ranks agree with the list", "settle after first", "sum to one")
    checks = Checks([Check(name, 0.0, 1.0, True, "what") for name in names]).to_json()
    result.data = result.data.assign_attrs(checks=checks)
    for color, own in (("probability", ""), ("kl", names[0]), ("rank", names[1])):
        note = " ".join(texts(result.figure(color=color), "note"))
        shown = [name for name in names if name in note]
        assert shown == [name for name in names if name in (own, "sum to one")]


def test_trajectories() -> None:
    result = made.result()
    figure = result.figure(kind="trajectories", position=2)
    lines = figure.axes[0].get_lines()
    assert len(lines) == 2
    assert np.allclose(lines[1].get_ydata(), result.data.tracked_probability[:, 2, 1])
    assert "␣<b>cat</b>" in texts(figure, "title")[0]
    none = made.result()
    none.data = none.data.isel(tracked=slice(0, 0))
    with pytest.raises(ResultError, match="tracks no tokens"):
        none.figure(kind="trajectories")


def test_same_figure_same_bytes() -> None:
    first, second = made.result().figure(), made.result().figure()
    for kind in ("png", "svg", "pdf"):
        assert image_bytes(first, kind, dpi=60) == image_bytes(second, kind, dpi=60)


def test_a_figure_shows_itself_in_a_shell_that_has_no_pyplot() -> None:
    code = (
        "import sys, handmade; from IPython.core.formatters import DisplayFormatter; "
        "figure = handmade.result().figure(); width, height = figure.get_size_inches(); "
        "data, about = DisplayFormatter().format(figure); "
        "assert data['image/png'].startswith(b'\\x89PNG'); "
        "pixels = int.from_bytes(data['image/png'][16:20], 'big'); "
        "shown = about['image/png']; "
        "assert shown == {'width': round(96 * width), 'height': round(96 * height)}; "
        "assert abs(pixels - 2 * shown['width']) <= 2; "
        "assert 'image/svg+xml' not in data and 'matplotlib.pyplot' not in sys.modules"
    )
    paths = [str(Path(made.__file__).parent), *sys.path]
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(paths)})


def test_the_formats_that_a_user_chose_for_figures_hold() -> None:
    formatter = DisplayFormatter()
    formatter.formatters["image/svg+xml"].for_type(Figure, lambda figure: "<svg/>")
    formatter.formatters["image/png"].for_type(Figure, lambda figure: b"theirs")
    data, _ = formatter.format(made.result().figure())
    assert data["image/svg+xml"] == "<svg/>" and data["image/png"] == b"theirs"


def test_quick_figures_leave_middles_out_and_say_so() -> None:
    data = made.result(30, ["tok"] * 20).data
    assert any("31 of 62 points drawn" in note for note in texts(quick("lens", data), "note"))


def test_tokens_as_they_are_drawn() -> None:
    assert drawable(" a\n\t") == "␣a↵⇥"
    assert drawable("\x00\u2028\u200f") in ("\\u0000\\u2028\\u200f", "\\u0000\\u2028\u200f")
    assert drawable("\ud83d") == "\\ud83d"
    assert drawable("é$_^") == "é$_^"
    assert fitted("日本語日本語", 5) == "日本…"
    assert fitted("abc", 3) == "abc"


def test_text_reads_on_its_cell() -> None:
    assert ink_on((1, 1, 1), palette("dark")) == "#12161c"
    assert ink_on((0.05, 0.3, 0.7), palette("light")) == "#ffffff"


def test_results_and_figures_need_no_pyplot_and_no_torch() -> None:
    code = (
        "import sys, layerlens.result, layerlens.export.pack; "
        "assert 'matplotlib' not in sys.modules; "
        "import layerlens.figures.lens; "
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
