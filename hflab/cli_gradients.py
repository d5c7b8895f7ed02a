"""The command `gradients`: its options, and what it prints. No logic."""

import argparse
from pathlib import Path

from .terminal import without_loading_bars


def add_gradients(parser: argparse.ArgumentParser) -> None:
    """The arguments of `gradients`."""
    parser.add_argument("models", nargs="+", metavar="MODEL|RECIPE", help="recipe, which is measured untrained; run folder, model folder or Hub id")
    parser.add_argument("--text", help="text to measure on (default: held-out data of each model)")
    parser.add_argument("--data", help="file, folder or source to measure on")
    parser.add_argument("--split", default="validation", help="split of the models' own data (default: validation)")
    parser.add_argument("--steps", type=int, default=64, metavar="T", help="tokens to read; distances reach to T - 1 (default: 64)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="models to build of what is untrained (default: 3)")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="most windows or texts to read; of long ones fewer (default: 8)")
    parser.add_argument(
        "--probes", type=int, metavar="N", help="random vectors for each estimate; 0: exact (default: exact where that takes seconds, else 16)"
    )
    parser.add_argument("--output", type=Path, default=Path("gradients"), metavar="FOLDER", help="folder for the files (default: gradients)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the model brings; only for a source you trust")


def run_gradients(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    """Measure, print the summary and name the files."""
    from . import api
    from .laboratory.gradient_files import describe_gradients
    from .laboratory.gradients import GradientOptions

    without_loading_bars()
    names = ("text", "data", "split", "steps", "seeds", "rows", "probes", "trust_remote_code")
    chosen = GradientOptions(**{name: getattr(options, name) for name in names})
    written = api.gradients(options.models, chosen, output=options.output, overrides=overrides)
    print(describe_gradients(written.models, written.verdicts))
    print(f"\n{written.page}")
    for file in written.files:
        print(file)
    return 0
