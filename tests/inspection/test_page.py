"""The page holds the numbers, as a table and as data; it loads nothing; and no text can become a tag or a script."""

import base64
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import font_manager

from hflab.errors import UserError
from hflab.inspection.page import STEPS, write_page
from hflab.inspection.writing import write_inspection

EVIL = "<script>&amp;$a$"
VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """Tags with their attributes, the text of every table cell, the JSON, and whether every tag was closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.cells, self.data, self.text, self.open = [], [], [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"td", "th"}:
            self.cells.append("")
        if tag == "script":
            self.data.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data
        if self.open and self.open[-1] == "script":
            self.data[-1] += data


@pytest.fixture
def written(reading_of):
    def write(name, *texts):
        reading = reading_of(name, *texts)
        html = write_page(reading, f"{EVIL} model", notes=(f"{EVIL} note",))
        return reading, html, Page(html)

    return write


def test_the_first_map_is_a_table_of_its_numbers(written):
    reading, _, page = written("mini seq2seq", EVIL, "love")
    maps = reading.maps[0]
    width = len(maps.columns) + 1
    table = np.array(page.cells[: width * (len(maps.rows) + 1)]).reshape(-1, width)
    assert table[0, 1:].tolist() == [token.label for token in maps.columns]
    assert table[1:, 0].tolist() == [token.label for token in maps.rows]
    np.testing.assert_allclose(table[1:, 1:].astype(float), maps.weights[0, 0], atol=0.5 / STEPS + 1e-9)


def test_the_data_are_all_maps(written, pair):
    reading, _, page = written(pair, EVIL, "love")
    found = [json.loads(text) for text in page.data[:-1]]
    assert len(found) == len(reading.maps)
    for maps, data in zip(reading.maps, found, strict=True):
        weights = np.frombuffer(base64.b64decode(data["weights"]), "<u2").reshape(data["shape"]) / STEPS
        np.testing.assert_allclose(weights, maps.weights, atol=0.5 / STEPS + 1e-6)
        assert data["hidesLater"] == maps.hides_later


@pytest.mark.parametrize("name", ["mini seq2seq", "gpt2", "lstm"])
def test_a_page_is_whole_and_loads_nothing(name, written):
    _, html, page = written(name, EVIL)
    assert page.open == []
    attributes = [attribute for _, given in page.tags for attribute in given]
    assert not {"src", "href", "srcset", "action", "onclick"} & set(attributes)
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "http://" not in html
    assert "https://" not in html
    policy = next(given["content"] for tag, given in page.tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("name", ["mini seq2seq", "gpt2", "lstm"])
def test_text_is_shown_and_never_obeyed(name, written):
    reading, html, page = written(name, EVIL)
    num_scripts = 1 + len(reading.maps) * 1
    assert sum(tag == "script" for tag, _ in page.tags) == num_scripts == html.count("</script>")
    assert f"{EVIL} model" in page.text
    assert f"{EVIL} note" in page.text
    assert page.text.count(EVIL) >= 3
    assert page.text.count("<script>") == page.text.count(EVIL)


def test_every_map_has_names_and_a_live_line(written):
    _, _, page = written("bart", EVIL, "love")
    identities = {given["id"] for _, given in page.tags if "id" in given}
    tables = [given for tag, given in page.tags if tag == "table"]
    assert len(tables) == 3
    assert all({given["aria-labelledby"], given["aria-describedby"]} <= identities for given in tables)
    assert sum(given.get("aria-live") == "polite" for _, given in page.tags) == 3
    assert all(given.get("scope") in {"col", "row"} for tag, given in page.tags if tag == "th")
    assert page.text.count("Every row sums to 1.") == 3


def test_later_tokens_have_no_number(written):
    reading, _, page = written("gpt2", "love")
    table = np.array(page.cells).reshape(5, 5)[1:, 1:]
    assert (table[np.triu_indices(4, 1)] == "-").all()
    assert np.allclose(np.where(table == "-", "0", table).astype(float), reading.maps[0].weights[0, 0], atol=1e-4)
    assert "Later tokens are hidden." in page.text


def test_a_trace_is_a_table_of_its_numbers(written):
    reading, _, page = written("lstm", "love")
    trace = reading.trace
    table = np.array(page.cells).reshape(-1, 6)
    assert table[0, 1:].tolist() == ["<eos>", *"love"]
    assert table[1, 1] == "-"
    np.testing.assert_allclose(table[1, 2:].astype(float), trace.surprisal[1:], atol=0.0051)
    for row, (name, changes) in zip(table[2:], trace.changes.items(), strict=True):
        assert row[0] == name
        np.testing.assert_allclose(row[1:].astype(float), changes, atol=0.00051)


def test_a_target_that_the_model_wrote_says_so(written):
    assert "Target, given" in written("bart", "love", "love")[2].text
    assert "Target, written by the model" in written("bart", "love")[2].text


def test_without_a_font_the_page_says_that_it_is_alone(reading_of, tmp_path, monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    inspection = write_inspection(reading_of("gpt2", "我爱"), "a model", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["attention.html"]
    assert inspection.pictures == ()
    assert "No font on this machine has 我 爱" in inspection.notes[0]
    assert inspection.notes[0] in inspection.page.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_made_is_refused(reading_of, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another folder"):
        write_inspection(reading_of("gpt2", "love"), "a model", tmp_path / "file")
