"""Pieces of Markdown that hold any text unharmed, and text that may leave this machine.

This module knows nothing about cards or runs.
"""

import re
import shlex
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
URL_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
ABSOLUTE_LITERAL = re.compile(r"""(["'])((?:/|~/|[A-Za-z]:[\\/])[^"'\n]+)\1""")
REMOVED = "(removed)"


def fence(text: str, language: str = "") -> str:
    """A code block of `text`, its fence longer than any run of backticks inside."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    marks = "`" * max(3, _longest_run_of_backticks(text) + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def inline_code(text: str) -> str:
    """`text` as code within a line, also of a table; line breaks become spaces."""
    text = " ".join(text.split()) or " "
    marks = "`" * (_longest_run_of_backticks(text) + 1)
    pad = " " if "`" in (text[0], text[-1]) else ""
    return f"{marks}{pad}{text}{pad}{marks}".replace("|", "\\|")


def escape(text: str) -> str:
    """`text` as prose on one line: Markdown and HTML in it are shown, not obeyed."""
    return re.sub(r"([\\`*{}\[\]<>#|~&$]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))


def _longest_run_of_backticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def redact(text: str) -> str:
    """`text` without Hub tokens and without user names and passwords in addresses."""
    return URL_CREDENTIALS.sub("", HUB_TOKEN.sub(REMOVED, text))


def without_folders(value: Any) -> Any:
    """`value`, plain data, with every string that is an absolute path cut to its last part: where files lie concerns nobody else."""
    if isinstance(value, dict):
        return {key: without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_folders(entry) for entry in value]
    if not isinstance(value, str):
        return value
    if PurePosixPath(value).is_absolute() or value.startswith("~"):
        return PurePosixPath(value).name or value
    return PureWindowsPath(value).name if PureWindowsPath(value).is_absolute() else value


def portable_command(command: str) -> str:
    """A shell command without absolute paths and secrets."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation mark without its partner: not a line that a shell took
        words = command.split()
    return redact(shlex.join(_portable_word(word) for word in words))


def _portable_word(word: str) -> str:
    option, equals, value = word.partition("=")
    return f"{option}={without_folders(value)}" if equals and option.startswith("-") else without_folders(word)


def portable_code(code: str, folder: str, shown_as: str) -> str:
    """Python code in which the string that names `folder`, with whatever lies above it, is `shown_as`, without other absolute paths."""
    named = re.compile(rf"""(["'])(?:[^"'\n]*[/\\])?{re.escape(folder)}\1""")
    code = named.sub(lambda match: match[1] + shown_as + match[1], code)
    return redact(ABSOLUTE_LITERAL.sub(lambda match: match[1] + without_folders(match[2]) + match[1], code))
