"""The sentences of a model card, each computed from facts of the run. Knows nothing about files or the order of a card.

`facts` is the content of run.json; entries that a run may lack (training, evaluation, git) are asked for, all others are always there.
"""

import re
from typing import Any

from ..evaluation.task_figures import show_figure, task_figures, writes_symbols
from ..recipe import Recipe
from ..speech.text_normalization import NORMALIZERS
from .card_metadata import Evaluation
from .markdown import escape, inline_code
from .task_wording import WORDING, figure_title
from .usage import OWN_RECORDING

TOKENIZER_KINDS = {"character": "character-level", "byte_bpe": "byte-level BPE", "word": "word-level"}
UNITS_OF_VOCABULARY = {"character": "character", "word": "word", "symbols": "symbol"}  # tokenizers that do not know every text
UNFINISHED = {
    "interrupted": "Training was interrupted before its budget was used up.",
    "failed": "Training failed before its budget was used up.",
    "running": "Training was still going on when this card was written.",
}
_WITHOUT_BRACES = str.maketrans("", "", "{}")
LANGUAGE_MODEL_USE = (
    "`hflab transcribe` decodes with it unless `--beams 1` is given; transformers' pipeline decodes greedily. With `--report report.html` the "
    "command above writes a page that shows both, by speaker, with the sentences that went wrong."
)
ENDINGS = {"budget": "the budget was used up", "early stopping": "early stopping", "interruption": "interruption"}


def summary_sentences(facts: dict[str, Any], recipe: Recipe, evaluation: Evaluation | None) -> str:
    """What the model is, and how good: two sentences."""
    model, data, cell = facts["model"], facts["data"], recipe.model.config.get("cell_type")
    models_text = WORDING[recipe.task].text == "text"
    kind = TOKENIZER_KINDS.get(recipe.processor.tokenizer) if recipe.model.pretrained is None and models_text else None
    described = [inline_code(model["class"]), *([f"{inline_code(cell)} cell"] if cell else []), f"{model['num_parameters']:,} parameters"]
    origin = f"fine-tuned from {inline_code(_name(recipe.model.pretrained))}" if recipe.model.pretrained else "trained from scratch"
    train, wording = data["splits"]["train"], WORDING[recipe.task]
    amount = f"{train['characters']:,} characters" if "characters" in train else f"{train['rows']:,} rows"
    first = (
        f"**{escape(facts['name'])}** is a {kind + ' ' if kind else ''}{wording.kind} ({', '.join(described)}), "
        f"{origin} on {escape(data['name'])} ({amount}{_language(data)})."
    )
    if evaluation is None:
        return f"{first} No figure on held-out {wording.text} was measured."
    if recipe.task != "causal_lm":
        return f"{first} {_headline(recipe, evaluation)}"
    bits = evaluation.figures["bits_per_character"]
    return (
        f"{first} On the {escape(evaluation.split)} split, which it was not trained on, it needs **{bits:.3f} bits per character**: "
        f"at each character it is on average as unsure as among {2**bits:.1f} equally likely ones."
    )


def _headline(recipe: Recipe, evaluation: Evaluation) -> str:
    """The most telling figure of a task other than language modelling."""
    shown = task_figures(recipe)
    figure = show_figure(evaluation.figures[shown.headline], shown.metrics[shown.headline])
    return f"On the {escape(evaluation.split)} split, which it was not trained on, its {figure_title(shown.headline)} is **{figure}**."


def _language(data: dict[str, Any]) -> str:
    return f", language {inline_code(data['language'])}" if data["language"] else ""


def _name(pretrained: str) -> str:
    return pretrained.rstrip("/").rpartition("/")[2] if pretrained.startswith(("/", "~", ".")) else pretrained


def unfinished_notice(facts: dict[str, Any]) -> str:
    """That the run did not come to its end, and what the weights are; empty for a finished run."""
    if facts["status"] == "finished":
        return ""
    steps = f" The weights are those after {facts['training']['steps']:,} optimizer steps." if facts.get("training") else ""
    return UNFINISHED[facts["status"]] + steps


def figures_subject(facts: dict[str, Any], recipe: Recipe, evaluation: Evaluation) -> str:
    """Which text or examples the figures are of, and how much of them."""
    if recipe.task != "causal_lm":
        when = "" if evaluation.step is None else f", after {evaluation.step:,} optimizer steps"
        return f"On the **{escape(evaluation.split)}** split of {escape(facts['data']['name'])}: {_amount(facts, recipe, evaluation)}{when}."
    figures, split = evaluation.figures, facts["data"]["splits"].get(evaluation.split)
    part = f" of {split['tokens']:,}" if split and split["tokens"] != figures["num_tokens"] else ""
    when = "" if evaluation.step is None else f", after {evaluation.step:,} optimizer steps"
    return (
        f"On the **{escape(evaluation.split)}** split of {escape(facts['data']['name'])}: {figures['num_characters']:,} characters "
        f"in {figures['num_tokens']:,}{part} tokens{when}."
    )


def _amount(facts: dict[str, Any], recipe: Recipe, evaluation: Evaluation) -> str:
    figures = evaluation.figures
    if recipe.task == "masked_lm":
        return f"{figures['num_pairs']:,} pairs of segments with {figures['num_tokens']:,} hidden tokens"
    split = facts["data"]["splits"].get(evaluation.split)
    part = f" of {split['rows']:,}" if split and split["rows"] != figures["num_rows"] else ""
    words = f" with {figures['num_labels']:,} labelled words" if recipe.task == "token_classification" else ""
    return f"{figures['num_rows']:,}{part} rows{words}"


def figures_method(recipe: Recipe) -> str:
    """How the figures were measured."""
    beams = recipe.evaluation.num_beams
    symbols = writes_symbols(recipe)
    return WORDING[recipe.task].method.format(
        lanes=recipe.evaluation.batch_size,
        decoding="greedily" if beams == 1 else f"with {beams} beams",
        normalizer=_normalizer(recipe),
        detail="A symbol is what white space separates." if symbols else "BLEU and chrF are those of the whole split, by sacrebleu.",
    )


def _normalizer(recipe: Recipe) -> str:
    """The name of a normaliser, and what it does."""
    name = recipe.processor.normalizer
    return f"{inline_code(name)} ({NORMALIZERS[name].summary.rstrip('.')})" if WORDING[recipe.task].hears else ""


def language_model_sentences(found: dict[str, Any], recipe: Recipe) -> str:
    """What language model lies beside a recognizer, how it is weighed, and how that was chosen. `found` is that entry of run.json."""
    settings = found["settings"]
    weight = settings["language_model_weight"]
    helps = found["with_language_model"]["validation"] < found["greedy"]["validation"]
    sentences = [
        f"Beside the weights lies a language model: {found['order']}-grams of {escape(found['text'])}. A beam search with {settings['num_beams']} "
        f"beams multiplies its log-probabilities by {weight:g}, adds {settings['word_bonus']:g} for each word and takes "
        f"{settings['unknown_word_penalty']:g} away for one that it does not know. These numbers were chosen on the validation split, where its "
        f"figure is therefore a little too good; errors are counted under the normalizer {inline_code(recipe.processor.normalizer)}."
    ]
    if weight == 0:
        used = "it says which words there are, not which follow each other" if settings["unknown_word_penalty"] > 0 else "nothing of it is used"
        sentences.append(f"Its weight is 0, for no higher one that was tried had fewer errors there: {used}.")
    if not helps:
        sentences.append("**It did not help on the validation split.**")
    return " ".join(sentences)


def own_recording_sentence(sampling_rate: int) -> str:
    """What the recording of a usage example must be that was not run."""
    return (
        f"{inline_code(OWN_RECORDING)} stands for a recording of your own, of one channel and {sampling_rate:,} samples a second. The example was "
        "not run for this card: the training data are recordings of people, and none of them is published with the model."
    )


def end_of_training(facts: dict[str, Any], recipe: Recipe) -> str:
    """What ended the training, with the budget it had."""
    stopped_by = facts["training"]["stopped_by"]
    return f"{ENDINGS.get(stopped_by, escape(stopped_by))} (budget: {_budget(recipe)})"


def _budget(recipe: Recipe) -> str:
    training = recipe.training
    parts = [
        f"{training.num_steps:,} optimizer steps" if training.num_steps is not None else "",
        f"{training.num_epochs:g} epochs" if training.num_epochs is not None else "",
        f"{training.max_seconds:g} seconds of training, evaluation left out" if training.max_seconds is not None else "",
    ]
    given = [part for part in parts if part]
    return " or ".join(given) + (", whichever came first" if len(given) > 1 else "")


def energy_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Energy and CO2 of the training, where they were estimated."""
    energy = facts.get("energy")
    if energy is None:
        return []
    least = ", at least: it was resumed, and the part of a process that was killed is not counted" if energy["resumed"] else ""
    used = f"{energy['kilowatt_hours'] * 1000:.3g} Wh, {energy['grams_co2']:.3g} g of CO2"
    return [("energy", f"{used} (estimated by {escape(energy['tool'])} with the electricity of {escape(energy['country'])}{least})")]


def data_description(facts: dict[str, Any]) -> str:
    """What the text is."""
    data = facts["data"]
    return f"**{escape(data['name'])}**" + (f": {escape(data['description'])}" if data["description"] else "")


def limitation_sentences(facts: dict[str, Any], recipe: Recipe, evaluation: Evaluation | None, num_looks: int) -> list[str]:
    """What the model cannot do or what is not known of it.

    Args:
        facts: run.json.
        recipe: the run's recipe.
        evaluation: the evaluation that the card reports.
        num_looks: evaluations on the reported split before that one.
    """
    wording, data = WORDING[recipe.task], facts["data"]
    classes = ", ".join(inline_code(name) for name in data.get("labels") or [])
    named = f"{escape(data['name'])}{_language(data)}"
    sentences = [wording.limitation.replace("{data}", named).replace("{classes}", classes)]
    if recipe.model.pretrained is None and recipe.processor.tokenizer in UNITS_OF_VOCABULARY and "tokenizer_vocab_size" in facts["model"]:
        size, unit = facts["model"]["tokenizer_vocab_size"], UNITS_OF_VOCABULARY[recipe.processor.tokenizer]
        sentences.append(
            f"Its vocabulary of {size:,} holds {unit}s of the training {wording.text} and special tokens: {wording.unknown.format(unit=unit)}."
        )
    sentences += [
        _limit_of_figures(evaluation, num_looks, wording.text),
        *_limit_of_unknown_tokens(facts, evaluation),
        *_limit_of_length(facts, recipe),
        _limit_of_repetition(facts, recipe),
    ]
    if data.get("is_synthetic"):
        sentences.append("No human speaks in its data: how well it understands people was not measured.")
    if facts["status"] != "finished":
        sentences.append(UNFINISHED[facts["status"]])
    if not facts["data"]["license"]:
        sentences.append(f"The licence of the training {wording.text} was not stated; find it out before using the model in public.")
    return sentences


def _limit_of_figures(evaluation: Evaluation | None, num_looks: int, text: str) -> str:
    if evaluation is None:
        return f"How good it is on {text} that it was not trained on was not measured."
    if num_looks:
        return (
            f"The figures are of the {escape(evaluation.split)} split, on which the model was also evaluated {num_looks} times while it trained. "
            "Where settings or the end of training were chosen by them, they are a little too good."
        )
    return f"The figures are of the {escape(evaluation.split)} split alone, which was not looked at while the model trained."


def _limit_of_unknown_tokens(facts: dict[str, Any], evaluation: Evaluation | None) -> list[str]:
    split = facts["data"]["splits"].get(evaluation.split) if evaluation else None
    if not split or not split.get("unknown_tokens"):
        return []
    return [
        f"{split['unknown_tokens']:,} of the {split['tokens']:,} tokens of that split stand for text that the tokenizer does not know. "
        "To predict such a token is easier than to predict the text, so the figures are a little too good."
    ]


def _limit_of_length(facts: dict[str, Any], recipe: Recipe) -> list[str]:
    """Where labelled examples were cut, and how many of them."""
    splits = facts["data"]["splits"]
    if "rows_cut" not in splits["train"]:
        return []
    counts = ", ".join(f"{split['rows_cut']:,} of the {split['rows']:,} rows of the {escape(name)} split" for name, split in splits.items())
    inputs = f"Inputs of more than {recipe.data.max_source_tokens} tokens"
    if recipe.task == "seq2seq":
        inputs += f" and targets of more than {recipe.data.max_target_tokens or recipe.data.max_source_tokens}"
    return [f"{inputs} were cut at their end, in training and for the loss: {counts}."]


def _limit_of_repetition(facts: dict[str, Any], recipe: Recipe) -> str:
    sentence = f"It comes from one run with seed {facts['seed']}; how much the result varies between seeds was not measured."
    if recipe.training.max_seconds is not None:
        sentence += " The budget was in seconds: another machine makes another number of steps in them, and so another model."
    return sentence


def reproduction_method(recipe: Recipe) -> str:
    """What to do to train the model again."""
    text = f", set its `data.path` to the {WORDING[recipe.task].text}" if recipe.data.path else ""
    return f"To train the model again, save the recipe above as `recipe.yaml`{text}, and run `hflab train recipe.yaml`. This run was started by:"


def source_sentence(facts: dict[str, Any]) -> str:
    """The commit of the code that trained the model, and whether it tells the whole code."""
    git = facts.get("git")
    if git is None:
        return "The run was not started inside a git repository, so no commit is known; the versions below are what there is."
    if git["dirty"]:
        return f"Git commit {inline_code(git['commit'])}, **with uncommitted changes**: the commit alone does not give the code that ran."
    return f"Git commit {inline_code(git['commit'])}, without uncommitted changes."


def citation(facts: dict[str, Any], shown_as: str) -> str:
    """An entry of BibTeX for the model, whose weights' hash tells it from all others."""
    fields = {
        "title": f"{facts['name']}: {facts['model']['class']}, trained on {facts['data']['name']}",
        "howpublished": shown_as,
        "note": f"SHA-256 of the weights: {facts['model']['weights_sha256']}",
    }
    key = re.sub(r"[^A-Za-z0-9]+", "_", facts["name"]).strip("_") or "model"
    return f"@misc{{{key},\n" + "".join(f"  {name} = {{{value.translate(_WITHOUT_BRACES)}}},\n" for name, value in fields.items()) + "}"


def licence_sentence(facts: dict[str, Any], recipe: Recipe) -> str:
    """Licences of the model and of the text it was trained on."""
    text = facts["data"]["license"]
    said = f"under {inline_code(text)}" if text else "under a licence that was not stated"
    verb = "text it was trained on is" if WORDING[recipe.task].text == "text" else "data it was trained on are"
    return f"The model is published under {inline_code(recipe.publish.license)}. The {verb} {said}."
