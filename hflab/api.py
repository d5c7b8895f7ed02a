"""The Python equal of each command. Each function reads and writes run folders and model folders, never live objects of another.

run = hflab.train("char_lstm_shakespeare", {"training.num_steps": 100})
figures = hflab.evaluate(run.model)
for piece in hflab.generate(run.model, "ROMEO:"):
    print(piece, end="")
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from .data.speech_check import SpeechCheck, check_speech
from .data.speech_check_files import write_check
from .errors import FOLDER_INSTEAD, UserError, cannot_be_loaded
from .evaluation.report import Evaluated, write_report
from .evaluation.speech_report import write_speech_report
from .evaluation.task_figures import TaskFigures
from .generation.answering import answer_text, answer_texts
from .generation.batches import generate_texts
from .generation.options import DEFAULT_BATCH_SIZE, GenerationOptions
from .generation.streaming import stream_text
from .hub.card import write_card
from .hub.usage import execute_usage
from .inspection.loading import load_model
from .inspection.reading import read_text
from .inspection.speech_check_picture import draw_check
from .inspection.writing import Inspection, write_inspection
from .laboratory.gradient_files import WrittenGradients, check_folder, write_gradients
from .laboratory.gradients import GradientOptions, measure_gradients
from .laboratory.memory_commands import effective_memory as effective_memory
from .laboratory.memory_commands import probe_memory as probe_memory
from .language_models import AddedLanguageModel
from .language_models import add_language_model as build_language_model
from .measuring import HTML, OpenedModel, load_headed_model, model_folder, open_model, shown_name
from .recipe import Recipe, load_recipe
from .recognition import transcribe as transcribe
from .recognition_report import measure_recognizer, report_notes, speech_report
from .run_folder import RunFolder
from .training import loop
from .training.speech_recognition import SpeechRecognition
from .training.tasks import check_recipe


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
    name = "recipe" if isinstance(recipe, Recipe) else Path(recipe).stem
    resolved = _resolved(recipe, overrides)
    run = loop.train(resolved, name=name, output=Path(output), run_name=run_name, command=command or f"hflab.train({str(name)!r}, {overrides!r})")
    return _complete(run, resolved)


def _resolved(recipe: str | Path | Recipe, overrides: dict[str, Any] | None) -> Recipe:
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    if overrides:
        raise UserError("A Recipe and overrides were given; set the fields of the recipe instead.")
    return recipe


def resume(run: str | Path, overrides: dict[str, Any] | None = None) -> RunFolder:
    """Continue an interrupted run; see `hflab.training.loop.resume`. Raises what `train` raises."""
    folder = loop.resume(Path(run), overrides)
    return _complete(folder, folder.read_recipe())


def _complete(run: RunFolder, recipe: Recipe) -> RunFolder:
    """Execute the usage example, if it is wanted, and write the card, in the first process."""
    if is_main_process():
        if recipe.publish.try_usage:
            shown = recipe.publish.repo_id or run.model.as_posix()
            run.update_facts(usage=execute_usage(run.model, shown, run.read_facts()["prompt"], recipe.task))
        write_card(run.path)
    PartialState().wait_for_everyone()
    return run


def check_data(recipe: str | Path | Recipe, overrides: dict[str, Any] | None = None, *, report: str | Path | None = None) -> SpeechCheck:
    """Look at every clip of a recipe of speech recognition before training, and find what is wrong.

    Args:
        recipe: Name of a packaged recipe, a YAML file, or a `Recipe`.
        overrides: Dotted keys and values that replace the recipe's; not with a `Recipe`.
        report: Folder for `data_check.json`, `left_out.csv` and the picture `data_check.png`; files of these names are replaced.

    Returns:
        What was found; `has_problems` says whether anything loses or spoils data.

    Raises:
        UserError: a mistake in the recipe or its data, but not sound that cannot be read; another task; a folder that cannot be written.
    """
    resolved = _resolved(recipe, overrides)
    if resolved.task != "speech_recognition":
        raise UserError(f"The recipe's task is {resolved.task!r}; only data of speech_recognition can be checked so far; give a recipe of it.")
    check_recipe(resolved)
    task = SpeechRecognition(resolved)
    found = check_speech(resolved.data, resolved.processor, task.frames(), tokenizer=task.reader().tokenizer)
    if report is not None:
        write_check(found, Path(report))
        draw_check(found, Path(report) / "data_check.png")
    return found


@dataclass(frozen=True)
class Measurement:
    """What an evaluation found, and what its figures are called."""

    evaluated: Evaluated
    shown: TaskFigures


def evaluate(
    model: str | Path,
    data: str | None = None,
    *,
    split: str = "validation",
    report: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> dict[str, float]:
    """Figures of a model on held-out data; under `accelerate launch`, shared out over the processes.

    Args:
        model: Run folder, model folder or Hub id.
        data: Name of a source, or a file or folder of text or of labelled examples, all of which is then evaluated (a source or folder that has
            splits of its own: its `split`); default: the data the model was trained on.
        split: Split of the model's own data: validation, test or train.
        report: File to write, making its folder: FILE.md with the figures and the worst and best rows, not for causal_lm, whose data are no rows;
            for speech_recognition also FILE.html, a page with figures by speaker and condition and the sound of the worst clips. A report of speech
            has the saved language model beside greedy decoding; the figures that are returned are the same without a report.
        overrides: Dotted keys of the data and evaluation sections.
        trust_remote_code: Run the code that comes with a model of another family.

    Raises:
        UserError: there is no such model, split or data; or, before the model is run, the report cannot be written or is of another kind.
    """
    found = measure(model, data, split=split, report=report, overrides=overrides, trust_remote_code=trust_remote_code)
    return found.evaluated.figures


def measure(
    model: str | Path,
    data: str | None = None,
    *,
    split: str = "validation",
    report: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Measurement:
    """As `evaluate`, with the rows, the names and the units of the figures."""
    file = None if report is None else Path(report)
    opened = open_model(model, data, split=split, report=file, overrides=overrides, trust_remote_code=trust_remote_code)
    shown = opened.task.figures
    if file is None:
        return Measurement(opened.evaluate(), shown)
    name, about = shown_name(model), f"the {opened.split} split" if data is None else Path(data).name
    if opened.task.recipe.task == "speech_recognition":
        return Measurement(_report_of_speech(opened, file, name, about), shown)
    evaluated = opened.evaluate()
    if opened.accelerator.is_main_process:
        write_report(file, f"{name} on {about}", evaluated, shown.metrics)
    return Measurement(evaluated, shown)


def _report_of_speech(opened: OpenedModel, file: Path, name: str, about: str) -> Evaluated:
    """Measure a recognizer and write the report, a page where the file's name ends so."""
    measured = measure_recognizer(opened)
    if opened.accelerator.is_main_process and file.suffix.lower() == HTML:
        write_speech_report(file, speech_report(opened, measured, name, about))
    elif opened.accelerator.is_main_process:
        write_report(file, f"{name} on {about}", measured.evaluated, opened.task.figures.metrics, notes=report_notes(opened, measured))
    return measured.evaluated


def add_language_model(run: str | Path, text: str | Path | None = None, *, order: int = 3, num_beams: int = 32) -> AddedLanguageModel:
    """Build a language model for a speech recognizer, tune it on the validation split, save it with the model, and write the card anew.

    Args:
        run: Run folder of a finished speech_recognition training.
        text: UTF-8 file with a sentence on each line; default: the training transcripts.
        order: Words of its longest n-grams, 1 to 6.
        num_beams: Of the search that is saved; at least 1.

    Returns:
        The weights that were chosen, and the word error rate (wrong words per word said) of each held-out split, greedy and with it. Where weight 0
        had the fewest errors on the validation split, that is what is saved.

    Raises:
        UserError: it is no run folder of a recognizer, the text cannot be read or has no words, or a number is out of range.
    """
    found = build_language_model(run, text, order=order, num_beams=num_beams)
    write_card(Path(run))
    return found


def generate(model: str | Path, prompt: str = "", options: GenerationOptions | None = None, *, trust_remote_code: bool = False) -> Iterator[str]:
    """Stream the continuation of `prompt`, piece by piece, without the prompt itself; with beam search, and from an encoder-decoder, in one piece.

    Args:
        model: Run folder, model folder or Hub id.
        prompt: Text to continue, or to answer.
        options: How text is chosen; default: as `GenerationOptions` has it, and for an encoder-decoder as the model's generation config has it.
        trust_remote_code: Run the code that comes with a model of another family.

    Raises:
        UserError: there is no such model, the prompt has characters that its tokenizer does not know, or the model has too few positions.
    """
    folder = model_folder(model)
    if answers(folder, trust_remote_code=trust_remote_code):
        writer, tokenizer = _on_device(folder, AutoModelForSeq2SeqLM, trust_remote_code)
        return iter([answer_text(writer, tokenizer, prompt, options)])
    chosen = options or GenerationOptions()
    if chosen.num_beams > 1:
        return generate_batch(model, [prompt], chosen, trust_remote_code=trust_remote_code)
    writer, tokenizer = _on_device(folder, AutoModelForCausalLM, trust_remote_code)
    return stream_text(writer, tokenizer, prompt, chosen)


def generate_batch(
    model: str | Path,
    prompts: Sequence[str],
    options: GenerationOptions | None = None,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    trust_remote_code: bool = False,
) -> Iterator[str]:
    """Yield the continuation of each of `prompts`, without the prompt, or an encoder-decoder's answer to each.

    Of the promises of a seed see `hflab.generation.batches`, of answers `hflab.generation.answering`.

    Raises:
        UserError: as `generate`, with the number of the prompt; all prompts are checked first.
    """
    folder = model_folder(model)
    if answers(folder, trust_remote_code=trust_remote_code):
        writer, tokenizer = _on_device(folder, AutoModelForSeq2SeqLM, trust_remote_code)
        return answer_texts(writer, tokenizer, prompts, options, batch_size=batch_size)
    writer, tokenizer = _on_device(folder, AutoModelForCausalLM, trust_remote_code)
    return generate_texts(writer, tokenizer, prompts, options or GenerationOptions(), batch_size=batch_size)


def _on_device(folder: str, auto_class: Any, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    loaded, tokenizer = load_headed_model(folder, auto_class, trust_remote_code=trust_remote_code)
    loaded.to(PartialState().device)
    return loaded, tokenizer


def inspect(
    model: str | Path, text: str, target: str | None = None, *, output: str | Path = "inspect", trust_remote_code: bool = False
) -> Inspection:
    """Write pictures and a page of what a model looks at while it reads `text`: the attention of every layer and head.

    A recurrent language model has no attention; its surprise at each token and the change of its state are shown instead.

    Args:
        model: Run folder, model folder or Hub id, of any head.
        text: What the model reads; of an encoder-decoder the source.
        target: What an encoder-decoder is to write; default: what it writes by itself, always taking the likeliest token.
        output: Folder for the files; it is made if need be, and only files of the same names are replaced.
        trust_remote_code: Run the code that comes with a model of another family.

    Raises:
        UserError: there is no such model, it has nothing to show, or the text is empty, too long or has characters that it does not know.
    """
    loaded, tokenizer = load_model(model_folder(model), trust_remote_code=trust_remote_code)
    return write_inspection(read_text(loaded, tokenizer, text, target), shown_name(model), Path(output))


def gradients(
    models: str | Path | Sequence[str | Path],
    options: GradientOptions | None = None,
    *,
    output: str | Path = "gradients",
    overrides: dict[str, Any] | None = None,
) -> WrittenGradients:
    """Measure how gradients fade on their way back through time, and write numbers, pictures and a page.

    Args:
        models: recipe (measured untrained), run folder (as it began, its checkpoints, as it ended), model folder or Hub id, or several of them.
        options: on what, over how many steps, and how exactly; see `hflab.laboratory.gradients.GradientOptions`.
        output: Folder for the files; it is made if need be, and only files of the same names are replaced.
        overrides: Dotted keys of recipes; of runs and models those of the data section.

    Returns:
        The figures and the files that hold them.

    Raises:
        UserError: there is no such recipe, model, split or data; the text is empty or shorter than the steps; a model reads both ways; a number is
            out of range; or, before any work, the folder cannot be written to.
    """
    check_folder(Path(output))
    names = [models] if isinstance(models, (str, Path)) else list(models)
    return write_gradients(measure_gradients(names, options or GradientOptions(), overrides), Path(output))


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return PartialState().is_main_process


def answers(folder: str, *, trust_remote_code: bool = False) -> bool:
    """Whether the model answers a prompt (an encoder-decoder) rather than continuing it. Raises `UserError` when there is no such model."""
    adapter = Path(folder) / "adapter_config.json"
    if adapter.is_file():
        return bool(json.loads(adapter.read_text(encoding="utf-8")).get("task_type") == "SEQ_2_SEQ_LM")
    try:
        return bool(AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).is_encoder_decoder)
    except (OSError, ValueError) as error:
        raise cannot_be_loaded("The model", folder, error, FOLDER_INSTEAD) from None
