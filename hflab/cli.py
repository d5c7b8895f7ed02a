"""The command line: one call per command, no logic. Exit status 0, 2 after a user's mistake (one line says which), 130 after Ctrl-C.

`data check` ends with 1 where it finds something that loses or spoils data.

Commands import what they need when they run, so that `--help` and mistakes answer at once.
"""

import argparse
import dataclasses
import json
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from . import __version__, cli_gradients, cli_memory, cli_speech
from .errors import UserError, nearest
from .recipe import load_recipe, recipe_keys, recipe_names
from .terminal import without_loading_bars

# options of `generate` that say how text is chosen; an encoder-decoder answers as it was saved while none is given
DECODING_OPTIONS = ("max_new_tokens", "temperature", "num_beams", "top_k", "top_p", "repetition_penalty", "stop")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; `arguments` default to those of the process. Returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        words, overrides = _take_overrides(given)
        options, unknown = _parser().parse_known_args(words)
        _check_all_understood(unknown, overrides, options)
        return options.run(options, overrides, shlex.join(["hflab", *given]))
    except UserError as error:
        print(f"hflab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:  # its text, if any, says how to go on
        print(f"hflab: {str(interruption) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has gone
        sys.stderr.close()
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hflab", description="Train, evaluate and use recurrent models and small Transformers.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"hflab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_recipes(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_generate(commands)
    cli_speech.add_transcribe(_add_command(commands, "transcribe", "Write down recordings, with times.", cli_speech.run_transcribe))
    about = "Give a speech recognizer a language model: built, tuned on the validation split and saved with it."
    cli_speech.add_language_model(_add_command(commands, "language-model", about, cli_speech.run_language_model))
    _add_inspect(commands)
    about = "Measure how gradients fade on their way back through time: numbers, pictures and a page."
    cli_gradients.add_gradients(_add_command(commands, "gradients", about, cli_gradients.run_gradients, "--data.max_characters 100000"))
    about = "Train small models on tasks that only memory solves, or measure how much context a language model uses."
    cli_memory.add_memory(_add_command(commands, "memory", about, cli_memory.run_memory))
    _add_data(commands)
    _add_card(commands)
    _add_publish(commands)
    _add_hub(commands)
    return parser


def _add_command(commands: Any, name: str, help_text: str, run: Any, takes_keys: str = "") -> argparse.ArgumentParser:
    epilog = f"Any key of a recipe can be set: {takes_keys}. `hflab recipes --keys` lists all keys." if takes_keys else None
    parser = commands.add_parser(name, help=help_text, description=help_text, epilog=epilog, allow_abbrev=False)
    parser.set_defaults(run=run, takes_keys=bool(takes_keys))
    return parser


def _add_recipes(commands: Any) -> None:
    parser = _add_command(commands, "recipes", "List the recipes, or print one.", _run_recipes)
    parser.add_argument("recipe", nargs="?", help="recipe to print")
    parser.add_argument("--keys", action="store_true", help="list every key with its type, default and meaning")
    parser.add_argument("--sources", action="store_true", help="list the data sources")


def _add_train(commands: Any) -> None:
    parser = _add_command(commands, "train", "Train a recipe, or continue a run.", _run_train, "--training.learning_rate 1e-3")
    parser.add_argument("recipe", nargs="?", help="name of a recipe, or a YAML file")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    parser.add_argument("--run", dest="run_name", help="name of the run's folder (default: the recipe's, numbered when taken)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue this run folder exactly where it stopped")


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(commands, "evaluate", "Measure a model on held-out data.", _run_evaluate, "--evaluation.batch_size 8")
    parser.add_argument("model", help="run folder, model folder or Hub id")
    parser.add_argument("--data", help="file, folder or source to evaluate on, all of it (default: the model's own held-out data)")
    parser.add_argument("--split", default="validation", help="split of the model's own data (default: validation)")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write figures, worst and best rows into FILE.md (not for causal_lm); of speech_recognition also FILE.html, a page with sound",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the model brings; only for a source you trust")


def _add_generate(commands: Any) -> None:
    parser = _add_command(commands, "generate", "Continue a text or every prompt of a file, or answer them with an encoder-decoder.", _run_generate)
    parser.add_argument("model", help="run folder, model folder or Hub id")
    parser.add_argument("--prompt", help="text to continue (default: the beginning of a text), or to answer")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help='continue or answer each line, or the "prompt" of each line of a .jsonl file')
    parser.add_argument("--output", type=Path, metavar="FILE", help="write prompts and texts here, as .jsonl (with --prompts; default: print them)")
    parser.add_argument("--batch-size", type=int, help="prompts read at a time (with --prompts; default: 8)")
    parser.add_argument("--max-new-tokens", type=int, help="tokens to add (default: 400, or as many as fit; its own limit for an answer)")
    parser.add_argument("--temperature", type=float, help="0: always the likeliest token (default: 0.8; 0 with beams, and for an answer)")
    parser.add_argument(
        "--num-beams", type=int, help="above 1: beam search for the likeliest text, shown when it is whole (default: 1; an answer as saved)"
    )
    parser.add_argument("--top-k", type=int, default=0, help="sample from the k likeliest tokens; 0: from all")
    parser.add_argument("--top-p", type=float, default=1.0, help="sample from the likeliest tokens that together have this probability")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: make tokens that occurred less likely")
    parser.add_argument("--seed", type=int, help="the same seed gives the same text; of --prompts, the n-th has the seed plus n - 1")
    parser.add_argument("--stop", action="append", default=[], help="end before this string; may be given several times")
    parser.set_defaults(as_saved={name: parser.get_default(name) for name in DECODING_OPTIONS})
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the model brings; only for a source you trust")


def _add_inspect(commands: Any) -> None:
    parser = _add_command(commands, "inspect", "Show what a model looks at in a text, as pictures and a page.", _run_inspect)
    parser.add_argument("model", help="run folder, model folder or Hub id, of any head")
    parser.add_argument("--text", required=True, help="text to read; for an encoder-decoder the source")
    parser.add_argument("--target", help="what an encoder-decoder is to write (default: what it writes by itself)")
    parser.add_argument("--output", type=Path, default=Path("inspect"), help="folder for the files (default: inspect)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the model brings; only for a source you trust")


def _add_data(commands: Any) -> None:
    actions = commands.add_parser("data", help="Look at data before training.", allow_abbrev=False).add_subparsers(required=True, metavar="ACTION")
    about = "Find what is wrong with the speech of a recipe. Exit status 1 if something loses or spoils data, 0 if not."
    cli_speech.add_data_check(_add_command(actions, "check", about, cli_speech.run_data_check, "--data.path FOLDER"))


def _add_card(commands: Any) -> None:
    parser = _add_command(commands, "card", "Write the model card of a run anew, or one card that compares several runs.", _run_card)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Markdown file of a comparison (default: comparison.md), its picture beside it")


def _add_publish(commands: Any) -> None:
    parser = _add_command(commands, "publish", "Publish a model or a data set, and verify what arrived.", _run_publish)
    parser.add_argument("source", type=Path, metavar="RUN|FOLDER", help="run folder or model folder; with --dataset the folder of the data")
    parser.add_argument("repo_id", metavar="USER/NAME", help="repository on the Hub that HF_ENDPOINT names (default: huggingface.co)")
    parser.add_argument("--dataset", action="store_true", help="publish a data set")
    parser.add_argument("--private", action="store_true", help="make the repository private if it is made now")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="branch to commit to; made if need be (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="propose the commit as a pull request")
    parser.add_argument("--tag", help="name for the commit, such as v1")
    parser.add_argument("--message", help="first line of the commit's message")
    parser.add_argument("--dry-run", action="store_true", help="look and measure, say what would be sent, and send nothing")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the model brings; only for a source you trust")


def _add_hub(commands: Any) -> None:
    actions = commands.add_parser("hub", help="Serve a Hub of your own.", allow_abbrev=False).add_subparsers(required=True, metavar="ACTION")
    parser = _add_command(actions, "serve", "Serve a folder as a Hub, for clients that set HF_ENDPOINT.", _run_hub_serve)
    parser.add_argument("--root", type=Path, default=Path("hub"), help="folder of everything the Hub keeps (default: hub)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0: a free one (default: 8080)")
    parser.add_argument(
        "--token-file", type=Path, help="lines USER ROLE TOKEN, the role read or write (default: ROOT/tokens, made at the first start)"
    )


def _take_overrides(given: list[str]) -> tuple[list[str], dict[str, str]]:
    """Part `--section.key value` and `--section.key=value` from the other words; argparse would take the value for a positional argument."""
    others: list[str] = []
    overrides: dict[str, str] = {}
    words = iter(given)
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in key:
            others.append(word)
            continue
        following = value if equals else next(words, "--")
        if not equals and following.startswith("--"):
            raise UserError(f"--{key} needs a value: --{key} VALUE.")
        overrides[key] = following
    return others, overrides


def _check_all_understood(unknown: list[str], overrides: dict[str, str], options: argparse.Namespace) -> None:
    """Raise `UserError` for a word that belongs to no option, or a key of a recipe where the command takes none."""
    leftover = [*unknown, *([] if options.takes_keys else (f"--{key}" for key in overrides))]
    if leftover:
        known = [f"--{name.replace('_', '-')}" for name in vars(options)]
        raise UserError(f"The argument {leftover[0]!r} is not understood.{nearest(leftover[0], known)} See `hflab --help`.")


def _run_recipes(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    if options.recipe:
        import yaml

        print(yaml.safe_dump(load_recipe(options.recipe).to_dict(), sort_keys=False, allow_unicode=True), end="")
    elif options.keys:
        for key, kind, default, meaning in recipe_keys():
            print(f"--{key} ({kind}; {'null' if default is None else default})\n    {meaning}")
    elif options.sources:
        from .data.example_sources import EXAMPLE_SOURCES
        from .data.sources import SOURCES

        for name, source in SOURCES.items():
            print(f"{name:20} {(source.__doc__ or '').splitlines()[0]}")
        print("\nlabelled examples:")
        for name, examples in EXAMPLE_SOURCES.items():
            print(f"{name:20} {(examples.read.__doc__ or '').splitlines()[0]} ({', '.join(examples.tasks)})")
    else:
        for name in recipe_names():
            print(f"{name:32} {load_recipe(name).description}")
    return 0


def _run_train(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    if (options.recipe is None) == (options.resume is None):
        raise UserError("`hflab train` needs either a recipe or --resume RUN; `hflab recipes` lists the recipes.")
    if options.recipe is not None:
        load_recipe(options.recipe, overrides)  # a mistake is told before torch is even imported
    from . import api
    from .summaries import summarise_run

    without_loading_bars()
    if options.resume is not None:
        run = api.resume(options.resume, overrides)
    else:
        run = api.train(options.recipe, overrides, output=options.output, run_name=options.run_name, command=command)
    if api.is_main_process():
        print(summarise_run(run))
    return 0


def _run_evaluate(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    from . import api
    from .summaries import describe_figures

    without_loading_bars()
    found = api.measure(
        options.model,
        options.data,
        split=options.split,
        report=options.report,
        overrides=overrides,
        trust_remote_code=options.trust_remote_code,
    )
    if api.is_main_process():
        figures = found.evaluated.figures
        print(json.dumps(figures, indent=2) if options.json else describe_figures(figures, found.shown))
        if options.report is not None and not options.json:
            print(f"\nReport: {options.report}")
    return 0


def _run_generate(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    for name in ("output", "batch_size"):
        if getattr(options, name) is not None and options.prompts is None:
            raise UserError(f"--{name.replace('_', '-')} goes with --prompts FILE only; a single --prompt is printed as it is written.")
    if options.prompts is not None and options.prompt is not None:
        raise UserError("Both --prompt and --prompts were given; give one of them.")
    from . import api
    from .generation.options import GenerationOptions
    from .generation.prompt_files import read_prompts
    from .measuring import model_folder

    without_loading_bars()
    prompts = None if options.prompts is None else read_prompts(options.prompts)
    default_temperature = 0.8 if options.num_beams in (None, 1) else 0.0
    chosen = GenerationOptions(
        max_new_tokens=options.max_new_tokens,
        num_beams=1 if options.num_beams is None else options.num_beams,
        temperature=default_temperature if options.temperature is None else options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
        stop_strings=tuple(options.stop),
    )
    is_answer = api.answers(model_folder(options.model), trust_remote_code=options.trust_remote_code)
    if is_answer and options.temperature is None:
        chosen = dataclasses.replace(chosen, temperature=0.0)  # an answer is the likeliest text unless it is to be drawn
    as_saved = is_answer and all(getattr(options, name) == default for name, default in options.as_saved.items())
    if prompts is not None:
        return _write_texts(prompts, options, None if as_saved else chosen)
    prompt = options.prompt or ""
    pieces = api.generate(options.model, prompt, None if as_saved else chosen, trust_remote_code=options.trust_remote_code)
    print("" if is_answer else prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def _run_inspect(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    from . import api

    without_loading_bars()
    inspection = api.inspect(options.model, options.text, options.target, output=options.output, trust_remote_code=options.trust_remote_code)
    for note in inspection.notes:
        print(note)
    for file in (inspection.page, *inspection.pictures):
        print(file)
    return 0


def _write_texts(prompts: list[str], options: argparse.Namespace, chosen: Any) -> int:
    """A line of JSON for each prompt and its text."""
    from . import api
    from .generation.options import DEFAULT_BATCH_SIZE

    batch_size = DEFAULT_BATCH_SIZE if options.batch_size is None else options.batch_size
    texts = api.generate_batch(options.model, prompts, chosen, batch_size=batch_size, trust_remote_code=options.trust_remote_code)
    with _open_output(options.output) as file:
        for prompt, text in zip(prompts, texts, strict=True):
            print(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False), file=file, flush=True)
    return 0


def _open_output(path: Path | None) -> AbstractContextManager[TextIO]:
    if path is None:
        return nullcontext(sys.stdout)
    if path.suffix != ".jsonl":
        raise UserError(f"--output is {str(path)!r}; it holds a line of JSON per prompt, so let its name end in .jsonl.")
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {str(path)!r} cannot be written: {error.strerror}.") from None


def _run_card(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    from .hub.card import write_card
    from .hub.comparison_card import write_comparison

    if len(options.runs) > 1:
        print(write_comparison(options.runs, options.output or Path("comparison.md")))
    elif options.output is not None:
        raise UserError("--output goes with several runs; the card of one is README.md of its model folder.")
    else:
        print(write_card(options.runs[0]))
    return 0


def _run_publish(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    from .hub.publishing import PublishOptions
    from .publication import publish

    without_loading_bars()
    publication = publish(
        options.source,
        options.repo_id,
        PublishOptions(
            repo_type="dataset" if options.dataset else "model",
            private=options.private,
            revision=options.revision,
            create_pr=options.create_pr,
            tag=options.tag,
            message=options.message,
        ),
        dry_run=options.dry_run,
        trust_remote_code=options.trust_remote_code,
        say=partial(print, flush=True),
    )
    if publication is not None:
        print(f"\n{publication}")
    return 0


def _run_hub_serve(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    try:
        from .hub.local.server import serve
    except ModuleNotFoundError as error:
        raise UserError(f"The local Hub needs the package {error.name}, which is not installed; run: pip install 'hflab[hub]'") from None

    serve(options.root, say=partial(print, flush=True), host=options.host, port=options.port, token_file=options.token_file)
    return 0
