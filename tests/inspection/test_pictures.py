import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.image import imread

from hflab.inspection import fonts
from hflab.inspection.fonts import font_families
from hflab.inspection.maps import AttentionMaps, Reading, StateTrace, Token
from hflab.inspection.pictures import MOST_PIXELS, Grid, draw_reading

WORDS = ("$a^b$", "the", "␣cat", "\\", "<eos>")


def maps_of(num_layers, num_heads, labels=WORDS, name="self_attention"):
    rows = tuple(Token(label, "special" if label == "<eos>" else "text") for label in labels)
    weights = np.random.default_rng(0).dirichlet(np.ones(len(labels)), (num_layers, num_heads, len(labels))).astype(np.float32)
    return AttentionMaps(name, "Self-attention", weights, rows, rows, "token that looks", "token looked at")


def draw(folder, *maps, name="a model"):
    return draw_reading(Reading("Model", "text", maps), folder, name)


def has_color(picture, rgb):
    return bool((np.abs(picture[..., :3] - np.array(rgb) / 255).max(-1) < 0.01).any())


def test_small_models_need_one_picture_of_each_kind(tmp_path):
    files, missing = draw(tmp_path, maps_of(2, 3), maps_of(1, 1, name="cross_attention"))
    assert missing == ""
    assert [file.name for file in files] == ["self_attention.png", "cross_attention.png"]
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_large_models_have_a_picture_of_every_layer(tmp_path):
    files, _ = draw(tmp_path, maps_of(2, 5, labels=WORDS * 9))
    assert [file.name for file in files] == ["self_attention.png", "self_attention_layer_1.png", "self_attention_layer_2.png"]
    assert all(max(imread(file).shape) <= MOST_PIXELS for file in files)


def test_pictures_show_the_weights_and_repeat_themselves(tmp_path):
    maps = maps_of(1, 1)
    maps.weights[0, 0] = np.eye(5)
    (file,), _ = draw(tmp_path, maps)
    picture, before = imread(file), file.read_bytes()
    assert has_color(picture, (0x0B, 0x2F, 0x63))  # a weight of 1
    assert has_color(picture, (0xFB, 0xFC, 0xFE))  # a weight of 0
    draw(tmp_path, maps)
    assert file.read_bytes() == before
    maps.weights[0, 0] = np.eye(5)[::-1]
    draw(tmp_path, maps)
    assert file.read_bytes() != before


def test_names_of_models_are_not_read_as_formulas(tmp_path):
    assert draw(tmp_path, maps_of(1, 1), name="runs/$\\frac{$")[0]


@pytest.mark.parametrize("num_tokens", [1, 5, 130])
def test_a_trace_is_one_picture(tmp_path, num_tokens):
    changes = {"layer 1, hidden state": np.linspace(1, 0, num_tokens)}
    trace = StateTrace(tuple(Token("a") for _ in range(num_tokens)), np.array([np.nan, *np.arange(num_tokens - 1)]), changes)
    files, _ = draw_reading(Reading("Model", "text", trace=trace), tmp_path, "a model")
    assert [file.name for file in files] == ["surprise_and_state.png"]
    assert imread(files[0]).shape[0] > 100


def test_panels_lie_inside_the_figure_and_apart():
    grid = Grid(3, 2, width=1.5, height=1.0, left=0.5, bottom=0.5)
    places = [grid.place(row, column) for row in range(3) for column in range(2)]
    assert all(min(x, y) > 0 and max(x + width, y + height) < 1 for x, y, width, height in places)
    assert places[0][1] > places[2][1] + places[2][3]  # the first row is above the second
    assert places[1][0] > places[0][0] + places[0][2]


def test_plain_labels_need_no_other_font():
    assert font_families(["the", "␣cat", "◌\u0301", "⟨E6⟩", "↵", "…"]) == ([fonts.BASE_FAMILY], "")


def test_signs_of_another_font_are_found(monkeypatch):
    """With a font that matplotlib brings along in the place of one that a system may have."""
    sign = "\u213c"  # a pi that DejaVu Sans has too, so the base has to lack it
    other = font_manager.findfont("STIXGeneral")
    monkeypatch.setattr(fonts, "BASE_FAMILY", "cmmi10")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [other])
    assert font_families(["x", sign]) == (["cmmi10", "STIXGeneral"], "")


def test_without_a_font_nothing_is_drawn_and_the_signs_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    assert draw(tmp_path, maps_of(1, 1, labels=("我", "the", "爱", "我"))) == ([], "我爱")
    assert list(tmp_path.iterdir()) == []
