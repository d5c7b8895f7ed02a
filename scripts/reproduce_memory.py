"""How far rnn, nvsi, gru, lstm and the mini-Transformer remember, at 10,000 parameters each: README's figures and its picture.

python scripts/reproduce_memory.py --output memory_figures

Three studies, each a folder with its report: one symbol over delays of 10, 20 and 50; the other tasks at T = 16, with three items where a task has
items; and the cells without the tricks that help them. A study that was broken off goes on where it was. On two cores shared with three
times as much other work the first took 10.5 minutes, and of the second parity 3.6 and adding 3.8.
"""

import argparse
import dataclasses
import time
from functools import partial
from pathlib import Path

import hflab
from hflab.laboratory.memory_report import plain_report
from hflab.laboratory.probe_tasks import PROBES
from hflab.models.recurrent import CELLS

STUDIES = {
    "delays": (["delayed_recall"], hflab.MemoryOptions(lengths=(10, 20, 50), num_steps=1000)),
    "tasks": ([name for name in PROBES if name != "delayed_recall"], hflab.MemoryOptions(lengths=(16,), num_items=3, num_steps=1000)),
    "without_tricks": (["delayed_recall", "adding"], hflab.MemoryOptions(cells=tuple(CELLS), lengths=(20,), num_steps=1000, tricks=())),
}


def main() -> None:
    """Do the studies and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("memory_figures"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    options = parser.parse_args()
    for name in options.studies:
        tasks, study = STUDIES[name]
        started = time.perf_counter()
        chosen = dataclasses.replace(study, processes=options.processes)
        command = f"python scripts/reproduce_memory.py --studies {name}"
        found = hflab.probe_memory(tasks, chosen, output=options.output / name, command=command, say=partial(print, flush=True))
        print(f"\n{plain_report(found)}\n\n{name}: {(time.perf_counter() - started) / 60:.1f} minutes\n", flush=True)


if __name__ == "__main__":
    main()
