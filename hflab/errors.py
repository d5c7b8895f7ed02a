"""The error that a user can mend, and the hint that names what was probably meant.

The command line prints a `UserError` as one line and exits with status 2; everything else is a defect of hflab and keeps its traceback.
"""

import difflib
import os
from collections.abc import Iterable

FOLDER_INSTEAD = "FOLDER instead of the id"  # how a command that takes a model is told of a folder


class UserError(ValueError):
    """A mistake in what the user gave. The message says what was given, what is allowed and what to do."""


def cannot_be_loaded(what: str, name: str, error: Exception, option: str) -> UserError:
    """The error for a model or tokenizer that is neither in a folder nor to be had from the Hub: why, and the way out, in one line.

    Args:
        what: what was to be loaded, such as "model.pretrained".
        name: the Hub id or folder that was given.
        error: what transformers said.
        option: how a folder is given instead, such as "--model.pretrained FOLDER".
    """
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
    if os.path.exists(os.path.expanduser(name)):
        return UserError(f"{what} is {name!r}, which cannot be loaded: {reason}")
    return UserError(
        f"{what} is {name!r}, which cannot be loaded: it is no folder here, and from the Hub: {reason} Check the name; without a network, "
        f"fetch it where there is one (hf download {name} --local-dir FOLDER), copy the folder and give its path ({option})."
    )


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the choice closest to `name`, or "" when none is close."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def check_choice(what: str, given: str, choices: Iterable[str]) -> None:
    """Raise `UserError` unless `given` is one of `choices`; the message lists them and names the nearest."""
    allowed = list(choices)
    if given not in allowed:
        raise UserError(f"{what} is {given!r}, which does not exist; choose from: {', '.join(allowed)}.{nearest(given, allowed)}")
