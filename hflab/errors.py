"""The error that a user can mend, and the hint that names what was probably meant.

The command line prints a `UserError` as one line and exits with status 2; everything else is a defect of hflab and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave. The message says what was given, what is allowed and what to do."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the choice closest to `name`, or "" when none is close."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def check_choice(what: str, given: str, choices: Iterable[str]) -> None:
    """Raise `UserError` unless `given` is one of `choices`; the message lists them and names the nearest."""
    allowed = list(choices)
    if given not in allowed:
        raise UserError(f"{what} is {given!r}, which does not exist; choose from: {', '.join(allowed)}.{nearest(given, allowed)}")
