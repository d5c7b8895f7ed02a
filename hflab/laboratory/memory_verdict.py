"""What a study of memory found, in sentences that follow from its figures by the rules in RULES. Knows nothing about files.

sentences = verdict(study)
"""

import statistics
from collections.abc import Iterable

from .memory import MemoryRow, MemoryStudy
from .probe_tasks import probe_named
from .probes import SOLVED_ACCURACY, SOLVED_SQUARED_ERROR, Probe

NOTHING_REMEMBERED = 0.1
RULES = (
    f"A training has solved its task if its figure on new rows of the trained length is at least {SOLVED_ACCURACY} (accuracy) or at most "
    f"{SOLVED_SQUARED_ERROR} (squared error).",
    "Without memory: the best that an answer from the position and the token at hand alone can expect, worked out, not measured.",
    f"A model remembers next to nothing if its mean over the seeds covers less than {NOTHING_REMEMBERED:.0%} of the way from there to a perfect "
    "figure.",
    "A model that solves a task with every seed keeps it up to the longest rows up to which each mean over the seeds counts as solved.",
    "The learning rate is the one that solved the task in the fewest steps, or came closest on validation rows, in one training each with a seed of "
    "its own: other seeds may fare worse with it.",
    "Few seeds say little about a mean, and a task that was not solved may be solved by more steps, more parameters or another learning rate.",
)


def verdict(study: MemoryStudy) -> list[str]:
    """A sentence or more for each task and length, and where there are several lengths one for each task."""
    places = list(dict.fromkeys((row.task, row.length) for row in study.rows))
    sentences = [_sentence([row for row in study.rows if (row.task, row.length) == place]) for place in places]
    if len({length for _, length in places}) > 1:
        sentences += [_longest([row for row in study.rows if row.task == task]) for task in dict.fromkeys(task for task, _ in places)]
    return sentences


def kept_up_to(row: MemoryRow, probe: Probe) -> int:
    """The largest multiple of the trained length up to which the mean over the seeds counts as solved; 0 if not even the trained one."""
    kept = 0
    for multiple in sorted(row.figures):
        if not probe.is_solved(row.mean(multiple)):
            break
        kept = multiple
    return kept


def remembers_nothing(row: MemoryRow, probe: Probe) -> bool:
    """Whether the model is hardly better than an answer without memory."""
    floor = probe.memoryless(row.length)
    return (row.mean() - floor) / (probe.perfect - floor) < NOTHING_REMEMBERED


def _sentence(rows: list[MemoryRow]) -> str:
    """About the models of one task and length."""
    probe, num_seeds = probe_named(rows[0].task), len(rows[0].num_steps)
    always = [row for row in rows if row.num_solved == num_seeds]
    sometimes = [row for row in rows if 0 < row.num_solved < num_seeds]
    never = [row for row in rows if row.num_solved == 0]
    clauses = []
    if always:
        shown = (f"{row.cell} (after {statistics.median(row.num_steps):,.0f} steps)" for row in sorted(always, key=lambda row: sum(row.num_steps)))
        clauses.append(f"solved with {_every(num_seeds)} by {_listed(shown)}")
    if sometimes:
        clauses.append(f"with some by {_listed(f'{row.cell} ({row.num_solved} of {num_seeds})' for row in sometimes)}")
    if never:
        clauses.append(f"never by {_listed(row.cell for row in never)}")
    forgetful = [row.cell for row in never if remembers_nothing(row, probe)]
    text = f"{rows[0].task}, T = {rows[0].length}: {'; '.join(clauses)}."
    if forgetful:
        text += f" Next to nothing is remembered by {_listed(forgetful)}."
    if always:
        text += f" Rows up to which it is kept: {_listed(_kept(row, probe) for row in always)}."
    return text


def _kept(row: MemoryRow, probe: Probe) -> str:
    kept = kept_up_to(row, probe)
    return f"{row.cell} {f'{kept} T' if kept > 1 else 'T alone'}"


def _longest(rows: list[MemoryRow]) -> str:
    """About the longest length that each model learns."""
    found = []
    for cell in dict.fromkeys(row.cell for row in rows):
        solved = [row.length for row in rows if row.cell == cell and row.num_solved == len(row.num_steps)]
        found.append(f"{cell} {max(solved) if solved else 'none'}")
    return f"{rows[0].task}: the longest of the lengths tried that was learnt with {_every(len(rows[0].num_steps))}: {_listed(found)}."


def _every(num_seeds: int) -> str:
    return "every seed" if num_seeds > 1 else "the one seed"


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
