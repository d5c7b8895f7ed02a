"""The probe tasks by name."""

import dataclasses
from typing import Any

from ..errors import UserError, check_choice
from .automata import BracketDepth, CycleNavigation, Parity, Permutations
from .probes import Adding, AssociativeRecall, Copying, DelayedRecall, Probe, SelectiveCopying

PROBES: dict[str, Probe] = {
    "adding": Adding(),
    "copying": Copying(),
    "delayed_recall": DelayedRecall(),
    "associative_recall": AssociativeRecall(),
    "selective_copying": SelectiveCopying(),
    "parity": Parity(),
    "cycle_navigation": CycleNavigation(),
    "permutations": Permutations(),
    "bracket_depth": BracketDepth(),
}
WITH_ITEMS = tuple(name for name, probe in PROBES.items() if isinstance(probe, (Copying, AssociativeRecall, SelectiveCopying)))
MOST_ITEMS = 26  # letters of associative_recall


def probe_named(name: str, num_items: int | None = None) -> Probe:
    """The task `name`, with so many things to remember where it has a number of them; None: as many as its source has.

    Raises:
        UserError: there is no such task, or the number is not from 1 to MOST_ITEMS.
    """
    check_choice("The task", name, PROBES)
    probe: Any = PROBES[name]
    if num_items is None or name not in WITH_ITEMS:
        return PROBES[name]
    if not 1 <= num_items <= MOST_ITEMS:
        raise UserError(f"The number of items is {num_items}, but must be from 1 to {MOST_ITEMS}; leave --items out for the number of the source.")
    return dataclasses.replace(probe, num_items=num_items)
