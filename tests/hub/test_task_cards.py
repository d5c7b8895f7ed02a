"""The card of a run of each task, from training to the rendered page: its figures, its words, its usage as it ran."""

import json
import random
import re

import pytest
from huggingface_hub import ModelCard

import hflab
from hflab.evaluation.task_figures import task_figures
from hflab.recipe import parse_recipe
from hflab.run_folder import RunFolder

WORDS = ["king", "queen", "sword", "night", "love", "falls", "rises", "sweet", "cold"]
# words of language models, which mean nothing in the cards of other tasks
LANGUAGE_MODEL_WORDS = ["bits per character", "language model", "continues text", "per byte", "contiguous pieces", "streams to a terminal"]
SAID = {
    "seq2seq": ["AutoModelForSeq2SeqLM", "sequence-to-sequence model", "Every source is decoded once, greedily", "target tokens trained on"],
    "text_classification": ['pipeline("text-classification"', "text classifier", "the classes `no`, `yes`", "texts trained on"],
    "token_classification": ['pipeline("token-classification"', "classifier of words", "labelled words trained on", "rows with"],
    "masked_lm": ['pipeline("fill-mask"', "masked language model", "pairs of segments with", "masked tokens trained on"],
}
TAGS = {
    "seq2seq": "text2text-generation",
    "text_classification": "text-classification",
    "token_classification": "token-classification",
    "masked_lm": "fill-mask",
}


def rows(task):
    draw = random.Random(0)
    for _ in range(120):
        words = draw.choices(WORDS, k=5)
        yield {
            "seq2seq": {"source": " ".join(words), "target": " ".join(words[::-1])},
            "text_classification": {"text": " ".join(words), "label": "yes" if "king" in words else "no"},
            "token_classification": {"tokens": words, "labels": ["person" if word in WORDS[:2] else "other" for word in words]},
            "masked_lm": {"text": ". ".join(" ".join(draw.choices(WORDS, k=4)).capitalize() for _ in range(5)) + "."},
        }[task]


@pytest.fixture(scope="module", params=SAID)
def run(request, tmp_path_factory):
    """A small run of a task, with its card."""
    task, folder = request.param, tmp_path_factory.mktemp("cards")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows(task)), encoding="utf-8")
    data = {"path": str(folder / "rows.jsonl"), "license": "cc0-1.0", "language": "en", "test_fraction": 0.1}
    data |= (
        {"source": "text", "split_by": "document", "sequence_length": 24} if task == "masked_lm" else {"source": "examples", "max_source_tokens": 16}
    )
    recipe = {
        "task": task,
        "data": data,
        "processor": {"tokenizer": "symbols" if task == "seq2seq" else "word"},
        "model": {"family": "mini_transformer", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "training": {"num_steps": 6, "batch_size": 8, "device": "cpu", "evaluate_every_steps": 2, "log_every_steps": 2},
    }
    return hflab.train(parse_recipe(recipe), output=folder / "runs", run_name="small")


def test_the_card_tells_the_figures_of_its_task(run):
    recipe, facts = run.read_recipe(), run.read_facts()
    card, shown = ModelCard.load(run.model / "README.md"), task_figures(run.read_recipe())
    assert (card.data.pipeline_tag, facts["evaluation"]["split"]) == (TAGS[recipe.task], "test")
    for name, metric in shown.metrics.items():
        assert f"| {name.replace('_', ' ')} | {facts['evaluation'][name]:.4f} | {metric.unit} | {metric.direction} |" in card.text
    assert {result.metric_type for result in card.data.eval_results} <= set(shown.metrics)
    assert shown.headline in {result.metric_type for result in card.data.eval_results}
    assert "![Learning curve: " in card.text
    assert (run.model / "learning_curve.png").is_file()


def test_the_card_has_the_words_of_its_task_and_of_no_other(run):
    text, task = (run.model / "README.md").read_text(encoding="utf-8"), run.read_recipe().task
    for words in SAID[task]:
        assert words in text, words
    for words in LANGUAGE_MODEL_WORDS:
        assert words not in text.replace("masked language model", ""), words
    for placeholder in ("None", "undefined", "{", "}", "TODO", "()", " ,", " .", "``"):
        assert placeholder not in _prose(text), placeholder


def test_the_usage_ran(run):
    usage = run.read_facts()["usage"]
    assert "error" not in usage, usage
    assert usage["output"] or run.read_recipe().task == "seq2seq"  # after six steps the answer may well be empty
    text = (run.model / "README.md").read_text(encoding="utf-8")
    assert usage["output"].partition("\n")[0] in text
    assert "[y/N]" not in text
    assert str(run.path) not in text
    assert ("hflab generate" in text) == (run.read_recipe().task == "seq2seq")
    assert re.search(r"`trust_remote_code=True`(\.\n|, and this prints the answer:\n)", text)


def test_the_card_can_be_written_again(run):
    before = (run.model / "README.md").read_text(encoding="utf-8")
    hflab.write_card(run.path)
    assert (run.model / "README.md").read_text(encoding="utf-8") == before
    assert RunFolder(run.path).read_facts()["status"] == "finished"


def _prose(text):
    """The card without its metadata, code blocks, tables and picture."""
    body = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text.split("\n---\n", 1)[1])
    return "\n".join(line for line in body.splitlines() if not line.startswith(("|", "!", "<")))
