"""The Python equal of each command. Each function reads and writes run folders and model folders, never live objects of another.

run = hflab.train("char_lstm_shakespeare", {"training.num_steps": 100})
figures = hflab.evaluate(run.model)
for piece in hflab.generate(run.model, "ROMEO:"):
    print(piece, end="")
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from .data.batches import prepare_text
from .data.sources import SOURCES
from .errors import UserError, check_choice
from .evaluation.evaluator import evaluate_language_model
from .generation.streaming import GenerationOptions, stream_text
from .hub.card import write_card
from .hub.usage import execute_usage
from .models import register_auto_classes
from .recipe import Recipe, load_recipe, parse_recipe
from .run_folder import RunFolder
from .training import loop

register_auto_classes()


def train(
    recipe: str | Path | Recipe,
    overrides: dict[str, Any] | None = None,
    *,
    output: str | Path = "runs",
    run_name: str | None = None,
    command: str = "",
) -> RunFolder:
    """Train a recipe and write its run folder, model folder and card.

    Args:
        recipe: Name of a packaged recipe, a YAML file, or a `Recipe`.
        overrides: Dotted keys and values that replace the recipe's, such as {"training.num_steps": 100}; not with a `Recipe`.
        output: Folder of all runs.
        run_name: Name of the run's folder; default: the recipe's name, numbered when taken.
        command: The command that started the run, for its facts; default: this call.

    Raises:
        UserError: a mistake in the recipe or its data, a full disk, or a loss that is no number.
        TrainingInterrupted: asked to stop (Ctrl-C, SIGTERM) and saved; continue with `resume`.
    """
    if isinstance(recipe, Recipe) and overrides:
        raise UserError("A Recipe and overrides were given; set the fields of the recipe instead.")
    name = "recipe" if isinstance(recipe, Recipe) else Path(recipe).stem
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    run = loop.train(resolved, name=name, output=Path(output), run_name=run_name, command=command or f"hflab.train({str(name)!r}, {overrides!r})")
    return _complete(run, resolved)


def resume(run: str | Path, overrides: dict[str, Any] | None = None) -> RunFolder:
    """Continue an interrupted run; see `hflab.training.loop.resume`. Raises what `train` raises."""
    folder = loop.resume(Path(run), overrides)
    return _complete(folder, folder.read_recipe())


def _complete(run: RunFolder, recipe: Recipe) -> RunFolder:
    """Execute the usage example and write the card, in the first process."""
    if is_main_process():
        shown = recipe.publish.repo_id or run.model.as_posix()
        run.update_facts(usage=execute_usage(run.model, shown, run.read_facts()["prompt"]))
        write_card(run.path)
    PartialState().wait_for_everyone()
    return run


def evaluate(
    model: str | Path,
    data: str | None = None,
    *,
    split: str = "validation",
    overrides: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> dict[str, float]:
    """Figures of a causal language model on held-out text; under `accelerate launch`, shared out over the processes.

    Args:
        model: Run folder, model folder or Hub id.
        data: Name of a source, or a file or folder of text, all of which is then evaluated; default: the data the model was trained on.
        split: Split of the model's own data: validation, test or train.
        overrides: Dotted keys of the data and evaluation sections.
        trust_remote_code: Run the code that comes with a model of another family.

    Raises:
        UserError: there is no such model, split or data.
    """
    folder = model_folder(model)
    recipe = _evaluation_recipe(folder, data, overrides or {})
    loaded, tokenizer = load_causal_model(folder, trust_remote_code=trust_remote_code)
    accelerator = Accelerator(cpu=recipe.training.device == "cpu")
    with accelerator.main_process_first():
        prepared = prepare_text(recipe.data, recipe.processor, tokenizer=tokenizer)
    wanted = split if data is None else "train"  # with no fraction held out, all of given data is one split, named train
    check_choice("The split", wanted, prepared.splits)
    return evaluate_language_model(
        loaded.to(accelerator.device),
        prepared.splits[wanted],
        batch_size=recipe.evaluation.batch_size,
        sequence_length=recipe.data.sequence_length,
        eos_token_id=tokenizer.eos_token_id,
        accelerator=accelerator,
        reset_at_documents=recipe.data.reset_at_documents,
    )


def generate(model: str | Path, prompt: str = "", options: GenerationOptions | None = None, *, trust_remote_code: bool = False) -> Iterator[str]:
    """Stream the continuation of `prompt`, piece by piece, without the prompt itself.

    Raises:
        UserError: there is no such model, or the prompt has characters that its tokenizer does not know.
    """
    loaded, tokenizer = load_causal_model(model_folder(model), trust_remote_code=trust_remote_code)
    loaded.to(PartialState().device)
    return stream_text(loaded, tokenizer, prompt, options or GenerationOptions())


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return PartialState().is_main_process


def model_folder(model: str | Path) -> str:
    """What `from_pretrained` takes for a run folder, a model folder or a Hub id. Raises `UserError` for a folder without a model."""
    path = Path(model)
    if not path.exists():
        if len(path.parts) > 2 or path.is_absolute():  # a Hub id is "name" or "user/name"
            raise UserError(f"There is no folder {path}; give a run folder whose training has ended, a model folder or a Hub id.")
        return str(model)
    for candidate in (path, path / "model"):
        if (candidate / "config.json").is_file():
            return str(candidate)
    raise UserError(f"{path} holds no model (no config.json, nor model/config.json); give a run folder, a model folder or a Hub id.")


def load_causal_model(folder: str, *, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, on the CPU. Raises `UserError` when there is no such model, or it needs code that is not trusted."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code), tokenizer
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"The model {folder!r} cannot be loaded: {reason} Give a run folder, a model folder or a Hub id.") from None


def _evaluation_recipe(folder: str, data: str | None, overrides: dict[str, Any]) -> Recipe:
    """The recipe beside the model, its data section replaced when `data` is given."""
    for key in overrides:
        if key.split(".")[0] not in {"data", "evaluation", "training"}:
            raise UserError(f"--{key} has no effect on an evaluation; keys of data, evaluation and training.device have.")
    if data is None:
        run = RunFolder(Path(folder).parent)
        if run.facts_file.is_file():  # the run's own recipe knows where the data are; the model's, made to be published, may not
            return run.read_recipe(overrides)
        try:
            recipe_file = str(cached_file(folder, "recipe.yaml"))
        except OSError:
            raise UserError(
                f"The model {folder!r} cannot be found, or has no recipe.yaml that says which data it was trained on; "
                "give a run folder, a model folder or a Hub id, or give --data too."
            ) from None
        return load_recipe(recipe_file, overrides)
    section = {"source": data} if data in SOURCES else {"source": "text", "path": data}
    if data not in SOURCES and not os.path.exists(data):
        raise UserError(f"There is neither a file nor a source {data!r}; give a path or one of: {', '.join(SOURCES)}.")
    values: dict[str, Any] = {"model": {"pretrained": folder}, "training": {"num_steps": 1}}
    values["data"] = section | {"validation_fraction": 0.0, "test_fraction": 0.0}
    for key, value in overrides.items():
        name, _, field = key.partition(".")
        values.setdefault(name, {})[field] = value
    return parse_recipe(values)
