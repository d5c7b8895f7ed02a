"""Prompts from a file. Knows nothing about models."""

import json
from pathlib import Path

from ..errors import UserError


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: of .jsonl the "prompt" of each line, of any other the lines, without empty ones.

    Raises:
        UserError: there is no such file, it is not UTF-8, a line of it is no JSON with a prompt, or it holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"The prompts {str(path)!r} cannot be read: {error.strerror}; give a text file, a prompt per line, or a .jsonl file."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"The prompts {str(path)!r} are not UTF-8; save the file as UTF-8.") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"The prompts {str(path)!r} hold no line; give a prompt per line.")
    if path.suffix != ".jsonl":
        return [line for _, line in numbered]
    return [_prompt_of(path, number, line) for number, line in numbered]


def _prompt_of(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f'Line {number} of {str(path)!r} is no JSON ({error}); each line is an object such as {{"prompt": "ROMEO:"}}.') from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f'Line {number} of {str(path)!r} has no text under "prompt"; each line is an object such as {{"prompt": "ROMEO:"}}.')
    return row["prompt"]
