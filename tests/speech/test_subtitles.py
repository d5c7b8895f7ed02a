import html
import json
import math
import random
import re
from itertools import pairwise

import pytest

from hflab.errors import UserError
from hflab.speech.subtitles import WRITERS, CaptionOptions, CaptionWord, captions, columns, time_stamp, to_json, to_srt, to_text, to_vtt

LATIN = ["a", "word", "sentence.", "clause,", "extraordinary", "x<y", "R&D", "<i>", "-->", "&amp;", "naïve", "e\u0301te\u0301", "7", "🙂"]
COMMA, QUESTION = "\uff0c", "\uff1f"  # full-width
CHINESE = [*"我们今天学习语音识别的方法", COMMA, "。", "机器", QUESTION]
OPTIONS = CaptionOptions()


def spoken(texts, *, generator=None, seconds=0.3, start=0.0):
    """Words of about equal length, with a pause after some if a generator is given."""
    words, now = [], start
    for text in texts:
        words.append(CaptionWord(text, now, now + seconds, 0.5))
        now += seconds + (generator.choice([0, 0, 0, 0.2, 0.61, 3]) if generator else 0)
    return words


def random_words(seed):
    generator = random.Random(seed)
    vocabulary = [LATIN, CHINESE, LATIN + CHINESE][seed % 3]
    return spoken(generator.choices(vocabulary, k=120), generator=generator, seconds=generator.choice([0.05, 0.3, 0.9]))


def parsed_times(line, mark):
    stamp = rf"(\d\d+):([0-5]\d):([0-5]\d){re.escape(mark)}(\d\d\d)"
    numbers = [int(number) for number in re.fullmatch(f"{stamp} --> {stamp}", line).groups()]
    return [(hours * 3600 + minutes * 60 + seconds) + thousandths / 1000 for hours, minutes, seconds, thousandths in (numbers[:4], numbers[4:])]


def parse_srt(text):
    for number, block in enumerate(text.split("\n\n")[:-1], start=1):
        index, times, *lines = block.split("\n")
        assert index == str(number)
        yield *parsed_times(times, ","), tuple(lines)


def parse_vtt(text):
    header, *blocks = text.removesuffix("\n").split("\n\n")
    assert header == "WEBVTT"
    for number, block in enumerate(blocks, start=1):
        index, times, *lines = block.split("\n")
        assert index == str(number)
        assert not any("<" in line or "-->" in line for line in lines)
        yield *parsed_times(times, "."), tuple(html.unescape(line) for line in lines)


def without_arrows(lines):
    return tuple(line.replace("-->", "→") for line in lines)


@pytest.mark.parametrize("seed", range(9))
def test_captions_keep_every_promise(seed):
    words = random_words(seed)
    found = captions(words)
    assert [word for caption in found for word in caption.words] == words
    assert all(1 <= len(caption.lines) <= 2 and all(0 < columns(line) <= 42 for line in caption.lines) for caption in found)
    assert all(left.end <= right.start for left, right in pairwise(found))
    assert all(0.001 - 1e-9 <= caption.end - caption.start <= 7 + 1e-9 for caption in found)
    for caption, following in pairwise(found):
        assert caption.end - caption.start >= 1 - 1e-9 or caption.end == following.start
        assert caption.words[0].start - 1e-3 <= caption.start <= caption.words[0].start + 1e-3
    for caption in found:
        unspoken = [word.text for word in caption.words if word.text in (COMMA, "。", QUESTION)]  # stays with the word before it
        pauses = [right.start - left.end for left, right in pairwise(caption.words)]
        assert unspoken or all(pause <= 0.6 + 1e-9 for pause in pauses)
        assert re.sub(r"\s", "", "".join(caption.lines)) == re.sub(r"\s", "", caption.text) == "".join(word.text for word in caption.words)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_written_can_be_read(seed):
    found = captions(random_words(seed))
    assert len(found) > 3
    wanted = [(caption.start, caption.end, caption.lines) for caption in found]
    assert list(parse_vtt(to_vtt(found))) == wanted
    assert list(parse_srt(to_srt(found))) == [(start, end, without_arrows(lines)) for start, end, lines in wanted]
    read = json.loads(to_json(found))["captions"]
    assert [(caption["start"], caption["end"], tuple(caption["lines"])) for caption in read] == wanted
    assert [CaptionWord(**word) for caption in read for word in caption["words"]] == [word for caption in found for word in caption.words]
    assert to_text(found).splitlines() == [caption.text for caption in found]


@pytest.mark.parametrize("seed", range(3))
def test_srt_is_read_by_the_package_srt(seed):
    srt = pytest.importorskip("srt")
    found = captions(random_words(seed))
    read = list(srt.parse(to_srt(found)))
    assert [(item.start.total_seconds(), item.end.total_seconds()) for item in read] == [(caption.start, caption.end) for caption in found]
    assert [tuple(item.content.split("\n")) for item in read] == [without_arrows(caption.lines) for caption in found]


@pytest.mark.parametrize("seed", range(3))
def test_vtt_is_read_by_the_package_webvtt(seed):
    webvtt = pytest.importorskip("webvtt")
    found = captions(random_words(seed))
    read = list(webvtt.from_string(to_vtt(found)))
    assert [(item.start, item.end) for item in read] == [(time_stamp(c.start, mark="."), time_stamp(c.end, mark=".")) for c in found]
    assert [tuple(html.unescape(line) for line in item.lines) for item in read] == [caption.lines for caption in found]


@pytest.mark.parametrize("extension", WRITERS)
def test_every_writer_writes_none_and_some(extension):
    assert WRITERS[extension]([]).strip() in ("", "WEBVTT", '{\n "captions": []\n}')
    assert "extraordinary" in WRITERS[extension](captions(spoken(["extraordinary"])))


def test_files_are_as_the_formats_say():
    words = [CaptionWord("Tom & Jerry", 0.4, 0.9, 0.75), CaptionWord("<3", 0.9, 2.0), CaptionWord("Ja!", 3661.5, 3662.75)]
    found = captions(words)
    assert to_srt(found) == "1\n00:00:00,400 --> 00:00:02,000\nTom & Jerry <3\n\n2\n01:01:01,500 --> 01:01:02,750\nJa!\n\n"
    assert to_vtt(found) == ("WEBVTT\n\n1\n00:00:00.400 --> 00:00:02.000\nTom &amp; Jerry &lt;3\n\n2\n01:01:01.500 --> 01:01:02.750\nJa!\n")
    assert to_text(found) == "Tom & Jerry <3\nJa!\n"
    assert to_text(words) == "Tom & Jerry <3 Ja!\n"
    assert json.loads(to_json(found))["captions"][0]["words"][0] == {"text": "Tom & Jerry", "start": 0.4, "end": 0.9, "confidence": 0.75}


def test_pause_breaks_first():
    words = [CaptionWord("one", 0, 0.5), CaptionWord("two", 1.05, 1.5), CaptionWord("three", 2.15, 2.5)]
    assert [caption.text for caption in captions(words)] == ["one two", "three"]
    assert [caption.text for caption in captions(words, CaptionOptions(pause_seconds=0.5))] == ["one", "two", "three"]


def test_short_caption_is_shown_longer_but_never_into_the_next():
    words = [CaptionWord("one", 0, 0.2), CaptionWord("two", 0.85, 1.0), CaptionWord("three", 4, 4.1)]
    assert [(caption.start, caption.end) for caption in captions(words)] == [(0, 0.85), (0.85, 1.85), (4, 5)]


def test_sentences_are_kept_whole_where_they_can_be():
    first, second = "This is the first sentence, it has ten words altogether. ", "Here is the second one which also needs its own two lines."
    found = captions(spoken((first + second).split()))
    assert [caption.text for caption in found] == [first.strip(), second]


def test_lines_are_even():
    found = captions(spoken(["the lines of a", "caption", "ought to be", "about as long"]))
    assert [caption.lines for caption in found] == [("the lines of a caption", "ought to be about as long")]


def test_chinese_and_japanese_have_no_spaces_and_take_two_columns():
    found = captions(spoken(f"今天我们学习语音识别{COMMA}它把声音变成文字。机器听见了我们说的每一句话{COMMA}并且把它们写下来。"))
    assert all(" " not in line and len(line) <= 21 and line[0] not in f"{COMMA}。" for caption in found for line in caption.lines)
    assert len(found) > 1
    assert to_text(spoken(["我", "爱", "deep", "learning", "。"])) == "我爱deep learning。\n"
    assert to_text(spoken(["한국어", "띄어쓰기"])) == "한국어 띄어쓰기\n"
    assert to_text(spoken(["我", "爱"]), joiner=" ") == "我 爱\n"
    assert captions(spoken(["ab", "cd"]), CaptionOptions(joiner=""))[0].text == "abcd"


def test_punctuation_that_is_a_word_stays_with_the_word_before():
    assert to_text(spoken(["Well", ",", "yes", "!", "?"])) == "Well, yes!?\n"
    assert captions(spoken(["Well", ",", "yes", "!"]))[0].text == "Well, yes!"


def test_word_longer_than_a_line_is_divided():
    words = [CaptionWord("x" * 100, 0, 10), CaptionWord("a b " * 40, 10, 20), CaptionWord("end", 20, 21)]
    found = captions(words)
    assert all(columns(line) <= 42 for caption in found for line in caption.lines)
    lines = [line for caption in found for line in caption.lines]
    assert lines[:2] == ["x" * 42] * 2
    assert lines[2].startswith("x" * 16 + " a b")
    assert [word for caption in found for word in caption.words] == words
    assert "".join(caption.text for caption in found).replace(" ", "") == "x" * 100 + "ab" * 40 + "end"
    assert all(left.end <= right.start for left, right in pairwise(found))


def test_times_that_words_can_have():
    at_once = captions([CaptionWord("extraordinarily", 1.0, 1.0)] * 30)
    assert len(at_once) > 4
    assert all(left.start < left.end <= right.start for left, right in pairwise(at_once))
    late = captions([CaptionWord("late", 360_000.0, 360_000.25)])
    assert to_srt(late).split("\n")[1] == "100:00:00,000 --> 100:00:01,000"
    assert list(parse_vtt(to_vtt(late))) == [(360_000, 360_001, ("late",))]
    assert [caption.end for caption in captions([CaptionWord("stuck", 0, 60)])] == [7]
    assert captions([CaptionWord("over", 0, 9), CaptionWord("lap", 1, 2), CaptionWord("ping", 1, 2)])[-1].end <= 8
    assert time_stamp(59.9996, mark=".") == "00:01:00.000"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([CaptionWord("a", -0.1, 1)], "from -0.1"),
        ([CaptionWord("a", 2, 1)], "from 2 to 1"),
        ([CaptionWord("a", 0, math.inf)], "inf"),
        ([CaptionWord("a", math.nan, 1)], "nan"),
        ([CaptionWord("a", 2, 3), CaptionWord("b", 1, 2)], "in order"),
        ([CaptionWord("a", 0, 1, -3.2)], "probabilities"),
        ([CaptionWord("a", 0, 1, math.nan)], "confidence nan"),
    ],
)
def test_words_that_cannot_be_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        captions(words)


@pytest.mark.parametrize("options", [{"max_columns": 5}, {"max_lines": 0}, {"min_seconds": 8}, {"min_seconds": -1}, {"pause_seconds": math.nan}])
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError, match="give"):
        CaptionOptions(**options)


def test_text_that_would_break_a_file_is_cleaned():
    found = captions(spoken(["  two\n\nlines ", "", " \t", "nul\0", "sep\u2028arated"]))
    assert found[0].text == "two lines nul sep arated"
    assert captions([]) == captions(spoken(["", " "])) == []
    joined = captions(spoken(["-", "->"]), CaptionOptions(joiner=""))
    assert "-->" not in to_srt(joined).split("\n")[2]
    assert [lines for _, _, lines in parse_vtt(to_vtt(joined))] == [("-->",)]


@pytest.mark.parametrize("max_lines", [1, 3])
def test_other_numbers_of_lines(max_lines):
    found = captions(random_words(0), CaptionOptions(max_lines=max_lines, max_columns=20, max_seconds=20))
    assert max(len(caption.lines) for caption in found) == max_lines
    assert all(columns(line) <= 20 for caption in found for line in caption.lines)
