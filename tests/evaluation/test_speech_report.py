"""The page about speech recognition: everything is in it, nothing of the data is obeyed, and it fetches nothing."""

import base64
import dataclasses
import io
import random
import re
import wave
from html.parser import HTMLParser

import pytest

from hflab.errors import UserError
from hflab.evaluation.speech_metrics import SPEECH_METRICS, SpeechOutputs, bootstrap_interval
from hflab.evaluation.speech_report import MOST_GROUPS, SpeechReport, speech_page, write_speech_report

WORDS = ["the", "river", "house", "quickly", "nineteen", "letter"]
VOID = {"meta", "link", "br", "img", "input"}
NASTY = '</script><script>alert(1)</script><img src=x onerror="alert(1)"> & "quoted" {{ 7 * 7 }}'


class Page(HTMLParser):
    """Tags of a page with their attributes, whether they are closed in order, and the visible text, white space made single."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.is_balanced = [], [], [], True
        self.feed(text)
        self.close()
        self.is_balanced = self.is_balanced and not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.is_balanced = self.is_balanced and bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def clip(num_frames=100):
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * num_frames))
    return made.getvalue()


def outputs(seed=0, num_rows=40, **columns):
    generator = random.Random(5)
    references = [generator.choices(WORDS, k=generator.randint(2, 8)) for _ in range(num_rows)]
    generator = random.Random(seed)
    heard = [[generator.choice(WORDS) if generator.random() < 0.3 else word for word in words if generator.random() > 0.1] for words in references]
    return SpeechOutputs([" ".join(words) for words in heard], [" ".join(words) for words in references], "basic", **columns)


def known(num_rows=40):
    """Columns that may be known of each row."""
    speakers = [f"speaker {row % 5}" for row in range(num_rows)]
    conditions = ["clean" if row % 2 else "noisy" for row in range(num_rows)]
    return {"speakers": speakers, "conditions": conditions, "seconds": [2.0] * num_rows}


def report(decoders=None, **settings):
    return SpeechReport("A title", "a/model", "a/corpus, test", decoders or {"greedy": outputs()}, **settings)


def test_the_whole_page(tmp_path):
    decoders = {"greedy": outputs(1, **known()), "trigram": outputs(2, **known())}
    told = report(decoders, detailed="trigram", audio_of=lambda row: clip(), real_time_factors={"trigram": 0.0421}, notes=["Mind this."], num_worst=6)
    told = dataclasses.replace(told, circumstances={"Run on": "an <i>abacus</i>"})
    path = write_speech_report(tmp_path / "new" / "report.html", told)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.is_balanced
    words = int(decoders["greedy"].counts.words.sum())
    for expected in (
        "A title",
        "a/model",
        "a/corpus, test",
        "Mind this.",
        "basic",
        decoders["greedy"].text.summary,
        "0.0421 24 times real time",
        "Run on an <i>abacus</i>",
        f"Words said {words}",
    ):
        assert expected in page.text
    assert "Clips 40" in page.text
    assert "Sound 1 min 20 s" in page.text
    assert "from 5 speakers" in page.text
    assert "With so few speakers" in page.text
    for each in decoders.values():
        for metric in SPEECH_METRICS.values():
            interval = bootstrap_interval(each, metric, seed=0)
            assert f"{100 * metric.compute(each):.2f} %" in page.text
            assert f"{100 * interval.low:.2f} to {100 * interval.high:.2f}" in page.text
    assert len(page.of("article")) == len(page.of("audio")) == 6
    assert {"del", "ins", "details", "nav", "main", "th"} <= {tag for tag, _ in page.tags}


def test_the_page_is_one_file_that_fetches_nothing():
    text = speech_page(report(audio_of=lambda row: clip()))
    page = Page(text)
    policy = next(tag["content"] for tag in page.of("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?://|@import|url\(", text)
    sources = [tag["src"] for _, tag in page.tags if "src" in tag]
    assert len(sources) == 20
    assert all(source.startswith("data:audio/wav;base64,") for source in sources)
    assert not page.of("link")
    for tag in page.of("a"):
        assert tag["href"][0] == "#"
        assert any(other.get("id") == tag["href"][1:] for _, other in page.tags)
    assert len(page.of("a")) >= 4


def test_identifiers_are_unique_and_what_scrolls_can_be_reached_by_keyboard():
    page = Page(speech_page(report({"greedy": outputs(**known())})))
    identifiers = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(identifiers) == len(set(identifiers)) > 20
    scrolling = [tag for tag in page.of("div") if tag.get("class") == "scroll"]
    assert len(scrolling) == 3
    assert all(tag["tabindex"] == "0" and tag["aria-labelledby"] in identifiers for tag in scrolling)


def test_nothing_of_the_data_is_obeyed():
    """The same tags with and without markup in every text that comes from outside."""

    def tags(text):
        outs = SpeechOutputs([f"{text} b"], [f"a {text} c"], "none", speakers=[text], conditions=[text], seconds=[1.0])
        told = SpeechReport(text, text, text, {text: outs, "b": outs}, notes=[text], real_time_factors={text: 1.0})
        page = Page(speech_page(told))
        assert page.is_balanced
        return page, [tag for tag, _ in page.tags]

    page, nasty = tags(NASTY)
    _, harmless = tags(" ".join(f"w{number}" for number in range(len(NASTY.split()))))
    assert nasty == harmless
    assert page.text.count(NASTY) > 5
    assert "49" not in page.text


def test_aligned_words_are_marked_by_more_than_colour():
    page = Page(speech_page(report({"greedy": SpeechOutputs(["one too three five six uh"], ["one two three four five six"], "none")})))
    aligned = page.text.split("1 deleted, 1 inserted")[-1].split("As it was written")[0]
    assert aligned.strip() == "one substituted: two → by too three deleted: \N{MINUS SIGN} four five six inserted: + uh"
    assert len(page.of("del")) == 2 + 2  # of the legend and of the sentence
    assert len(page.of("ins")) == 2 + 2


def test_words_without_spaces_are_shown_without():
    text = speech_page(report({"greedy": SpeechOutputs(["\u4eca\u5929\u6c14\u597d"], ["\u4eca\u5929\u4eba\u597d"], "characters")}))
    assert re.search(r'dir="auto">\u4eca\u5929<span class="substitution">.*?</span>\u597d</dd>', text)


def test_worst_rows_come_first_and_only_their_clips_are_asked_for():
    told = outputs()
    asked = []

    def audio_of(row):
        asked.append(row)
        return clip() if row % 2 else None

    text = speech_page(report({"greedy": told}, audio_of=audio_of, num_worst=7))
    rates = (told.counts.word_errors / told.counts.words).tolist()
    assert asked == sorted(range(40), key=lambda row: -rates[row])[:7]
    assert re.findall(r'<h3 id="clip-(\d+)"', text) == [str(row + 1) for row in asked]
    assert text.count("<audio") == sum(row % 2 for row in asked)
    assert text.count("The clip has no sound.") == sum(row % 2 == 0 for row in asked)
    assert "left out" not in text


@pytest.mark.parametrize("num_clips", [0, 1, 3, 5])
def test_clips_beyond_the_limit_are_left_out_and_the_page_says_so(num_clips):
    uri = len("data:audio/wav;base64,") + len(base64.b64encode(clip()))
    text = speech_page(report(audio_of=lambda row: clip(), num_worst=5, audio_limit=num_clips * uri + uri - 1))
    assert text.count("<audio") == num_clips
    assert text.count("The clip is left out") == 5 - num_clips
    assert (f"{5 - num_clips} of the clips" in text) == (num_clips < 5)


def test_a_short_clip_after_a_long_one_may_still_fit():
    sizes = iter([10, 5000, 10])
    text = speech_page(report(audio_of=lambda row: clip(next(sizes)), num_worst=3, audio_limit=1000))
    assert text.count("<audio") == 2
    assert "1 of the clips is left out" in text


def test_without_errors_words_or_columns():
    right = Page(speech_page(report({"greedy": SpeechOutputs(["a b"], ["a b"], "none")})))
    assert "No clip with an error" in right.text
    assert "No intervals" in right.text
    assert right.is_balanced
    assert not right.of("figure")
    silent = Page(speech_page(report({"greedy": SpeechOutputs(["uh", ""], ["", ""], "none", speakers=["a", "b"])})))
    assert "Word error rate errors per reference word \N{EN DASH}" in silent.text
    assert "Said (nothing)" in silent.text
    assert "Sound" not in silent.text


def test_many_speakers_are_cut_to_the_worst():
    num_rows = MOST_GROUPS + 20
    told = outputs(num_rows=num_rows, speakers=[f"s{row}" for row in range(num_rows)])
    page = Page(speech_page(report({"greedy": told}, num_worst=0)))
    assert f"The {MOST_GROUPS} worst of {num_rows} speakers" in page.text
    assert len([tag for tag in page.of("td") if tag.get("class") == "number rate"]) == MOST_GROUPS


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="0 decoders"):
        SpeechReport("t", "m", "d", {})
    with pytest.raises(UserError, match="'greedy' and 'beam' differ in: normalizer, speakers"):
        report({"greedy": outputs(), "beam": SpeechOutputs(outputs().predictions, outputs().references, "none", speakers=["x"] * 40)})
    with pytest.raises(UserError, match="Did you mean 'greedy'"):
        report(detailed="greed")
    with pytest.raises(UserError, match="the name of a decoder is 'beam'"):
        report(real_time_factors={"beam": 1.0})
    with pytest.raises(ValueError, match="no WAV file"):
        speech_page(report(audio_of=lambda row: b"ID3 something else"))
    with pytest.raises(UserError, match="another --report"):
        write_speech_report(tmp_path, report())
