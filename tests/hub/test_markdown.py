import re

import pytest

from hflab.hub.markdown import escape, fence, inline_code, portable_code, portable_command, redact, without_folders

TEXTS = ["plain", "``` inside", "`````", "a\r\nb\rc", "", "--- \n## no heading", "tail `"]


@pytest.mark.parametrize("text", TEXTS)
def test_fence_is_longer_than_any_run_of_backticks_inside(text):
    opening, *inside, closing = fence(text, "text").split("\n")
    assert opening == closing + "text"
    assert closing.strip("`") == ""
    assert len(closing) > max(map(len, re.findall("`+", "\n".join(inside))), default=0)
    assert "\n".join(inside) == text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("text", ["a`b", "``", "`a", "a | b", "two\nlines"])
def test_inline_code_closes_itself(text):
    shown = inline_code(text)
    marks = re.match("`+", shown)[0]
    body = shown[len(marks) : -len(marks)]
    assert shown.endswith(marks)
    assert "\n" not in shown
    assert not re.search(rf"(?<!`){marks}(?!`)", body)
    assert not re.search(r"(?<!\\)\|", body)


def test_escape_shows_markup_instead_of_obeying_it():
    assert escape("<b> *x* [y](z) _u_ a_b\n# c | d `e`") == r"\<b\> \*x\* \[y\](z) \_u\_ a_b \# c \| d \`e\`"


def test_redact_takes_tokens_and_passwords_out():
    shown = redact(f"curl https://me:secret@example.org/x?token=hf_{'Ab1' * 10} hf_hub")
    assert "secret" not in shown
    assert "Ab1" not in shown
    assert "https://example.org/x" in shown
    assert shown.endswith("hf_hub")


def test_paths_of_this_machine_are_cut_and_others_are_kept():
    values = {"a": "/home/me/x.txt", "b": ["C:\\texts\\y.txt", "~/z"], "c": 1e-3, "d": "user/name", "e": "texts/x.txt", "f": None}
    assert without_folders(values) == {"a": "x.txt", "b": ["y.txt", "z"], "c": 1e-3, "d": "user/name", "e": "texts/x.txt", "f": None}


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("/home/me/venv/bin/hflab train x --data.path '/a b/c d.txt'", "hflab train x --data.path 'c d.txt'"),
        ("hflab train --data.path=/a/b.txt --training.seed=3", "hflab train --data.path=b.txt --training.seed=3"),
        ("hflab train it's --data.path /a/b.txt", "hflab train 'it'\"'\"'s' --data.path b.txt"),
    ],
)
def test_command_is_shown_without_folders(command, shown):
    assert portable_command(command) == shown


@pytest.mark.parametrize("path", ["runs/it/model", "/a b/runs/it/model", "it/model", "C:\\\\runs/it/model"])
def test_code_names_the_model_and_no_folder(path):
    code = f"model = load('{path}'); other = open('/etc/x.txt'); ratio = a / b / c; text = 'it/models'"
    expected = "model = load('me/it'); other = open('x.txt'); ratio = a / b / c; text = 'it/models'"
    assert portable_code(code, "it/model", "me/it") == expected
