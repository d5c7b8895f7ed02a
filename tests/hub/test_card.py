import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

from hflab.errors import UserError
from hflab.evaluation.metrics import METRICS
from hflab.hub.card import MOST_EVALUATIONS, write_card
from hflab.run_folder import RunFolder

ALL_SECTIONS = ["Use", "Intended use", "Figures", "Training", "Data", "Limitations", "Reproduction", "Licence", "Citation"]
WITHOUT_OWN_WORDS = [name for name in ALL_SECTIONS if name != "Intended use"]


def card_text(run: Path) -> str:
    return write_card(run).read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Text below each heading of the second level, found as Markdown finds it: not inside code blocks."""
    found, name, mark = {}, None, None
    for line in ModelCard(text).text.splitlines():
        opened = re.match(r"(`{3,})", line)
        if mark is None and line.startswith("## "):
            name = line[3:]
        elif mark is None and opened:
            mark = opened[1]
        elif mark is not None and line == mark:
            mark = None
        found[name] = found.get(name, "") + line + "\n"
    assert mark is None, "a code block is not closed"
    return {name: body for name, body in found.items() if name is not None}


def test_sections_stand_in_order_whatever_the_sample_holds(make_run):
    text = card_text(make_run())
    assert list(sections(text)) == WITHOUT_OWN_WORDS
    assert "前言 ``` <script>alert(1)</script>\n---\n````\n| a | b |\n" in sections(text)["Data"]


def test_metadata_is_what_the_hub_client_reads_back(make_run):
    path = write_card(make_run())
    data = ModelCard.load(path).data
    head = yaml.safe_load(path.read_text(encoding="utf-8").split("\n---\n")[0].removeprefix("---\n"))
    assert head == data.to_dict()
    assert (data.license, data.language, data.library_name, data.pipeline_tag) == ("apache-2.0", "en", "transformers", "text-generation")
    assert {"hflab", "recurrent", "gru"} <= set(data.tags)
    assert data.datasets is None
    assert data.base_model is None


def test_results_are_those_of_the_run(make_run):
    run = make_run()
    card = ModelCard.load(write_card(run))
    figures = RunFolder(run).read_facts()["evaluation"]
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {name: round(figures[name], 6) for name in METRICS}
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}
    shown = sections(str(card))["Figures"]
    for name, metric in METRICS.items():
        assert f"| {figures[name]:.4f} | {metric.unit} | {metric.direction} |" in shown
    assert "hflab evaluate somebody/plays --split validation --data.path plays.txt" in shown
    assert "10,000 characters in 10,001 tokens." in shown


def test_facts_of_the_run_are_told(make_run):
    run = make_run()
    text, facts = card_text(run), RunFolder(run).read_facts()
    for expected in ("30,123", "121,000 bytes", facts["model"]["weights_sha256"], facts["git"]["commit"], "86.4 s", "Some CPU @ 2.00GHz", "2.13.0"):
        assert expected in text
    for expected in (facts["data"]["fingerprint"], "90,000", "`mit`", "without uncommitted changes", "2,000 optimizer steps"):
        assert expected in text


def test_settings_that_differ_are_in_sight_and_the_others_in_the_recipe(make_run):
    training = sections(card_text(make_run()))["Training"]
    table, recipe = training.split("<details>")
    assert "| `training.learning_rate` | `0.002` | `0.001` |" in table
    assert "| `training.optimizer_arguments.betas` | `[0.9, 0.99]` | none |" in table
    assert "| `model.cell_type` | `gru` | the family's |" in table
    assert "batch_size" not in table
    assert "  batch_size: 32\n" in recipe


def test_no_placeholder_path_or_secret_leaves_the_machine(make_run):
    run = make_run()
    text = card_text(run)
    for forbidden in ("TODO", "Information Needed", "None", "undefined", "/home", "/opt", "/var", str(run.parent), "hf_a1"):
        assert forbidden not in text
    assert "hflab train plays --data.path plays.txt" in text
    assert "model='somebody/plays'" in text


def test_model_without_a_repository_is_named_by_its_folder(make_run):
    text = card_text(make_run({"publish": {"repo_id": None}}))
    assert "model='runs/plays_gru/model'" in text
    assert "hflab generate runs/plays_gru/model --prompt ROMEO:" in text
    assert "hflab evaluate runs/plays_gru/model --split validation" in text


def test_same_facts_give_the_same_files(make_run):
    first, second = write_card(make_run(name="one")), write_card(make_run(name="one"))
    assert first != second
    for name in ("README.md", "learning_curve.png"):
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()


def test_own_words_are_taken_as_they_are(make_run):
    words = {"description": "A *first* model.", "intended_use": "Teaching.", "limitations": "Old spelling."}
    text = card_text(make_run({"publish": words}))
    assert list(sections(text)) == ALL_SECTIONS
    assert all(word in text for word in words.values())


@pytest.mark.parametrize("usage", [None, {"code": "print(1)", "error": "no answer within 120 s"}])
def test_usage_that_did_not_run_is_left_out(make_run, usage):
    text = card_text(make_run(usage=usage))
    assert "Use" not in sections(text)
    assert "print(1)" not in text


def test_budget_of_seconds(make_run):
    text = card_text(make_run({"training": {"num_steps": None, "max_seconds": 90}}))
    assert "ended by: the budget was used up (budget: 90 seconds of training, evaluation left out)" in text
    assert "another machine makes another number of steps" in sections(text)["Limitations"]


def test_text_that_the_tokenizer_does_not_know_is_counted(make_run):
    assert "7 of the 10,001 tokens of that split stand for text" in sections(card_text(make_run()))["Limitations"]


@pytest.mark.parametrize(("tokenizer", "refused"), [("character", "any other character"), ("word", "any other word"), ("byte_bpe", None)])
def test_prompts_that_are_refused_are_told(make_run, tokenizer, refused):
    limitations = sections(card_text(make_run({"processor": {"tokenizer": tokenizer}})))["Limitations"]
    assert ("is refused" in limitations) == (refused is not None)
    assert (refused or "") in limitations


def test_early_stopping_and_two_budgets(make_run):
    training = {"steps": 600, "tokens": 6, "characters": 6, "epochs": 1.0, "seconds": 1.0, "tokens_per_second": 6.0, "stopped_by": "early stopping"}
    text = card_text(make_run({"training": {"num_epochs": 3, "early_stopping_patience": 2}}, training=training))
    assert "ended by: early stopping (budget: 2,000 optimizer steps or 3 epochs, whichever came first)" in text


def test_test_split_that_was_not_looked_at(make_run):
    run = make_run()
    facts = RunFolder(run).read_facts()
    RunFolder(run).update_facts(evaluation={**facts["evaluation"], "split": "test", "bits_per_character": 2.5})
    RunFolder(run).append_metrics({**facts["evaluation"], "kind": "evaluation", "step": 2000, "split": "test"})
    text = card_text(run)
    assert "was not looked at while the model trained" in sections(text)["Limitations"]
    assert "On the test split, which it was not trained on, it needs **2.500 bits per character**" in text
    assert "--split test" in text
    assert {result.dataset_split for result in ModelCard(text).data.eval_results} == {"test"}


def test_validation_split_was_looked_at(make_run):
    assert "also evaluated 9 times while it trained" in sections(card_text(make_run()))["Limitations"]


@pytest.mark.parametrize(("status", "said"), [("interrupted", "was interrupted"), ("failed", "failed"), ("running", "still going on")])
def test_unfinished_run_says_so(make_run, status, said):
    text = card_text(make_run(status=status))
    assert re.search(rf"^> \*\*Training .*{said}.* after 2,000 optimizer steps\.\*\*$", text, re.MULTILINE)
    assert said in sections(text)["Limitations"]
    assert "> **" not in card_text(make_run())


def test_interrupted_run_without_a_last_evaluation_reports_the_one_before(make_run):
    text = card_text(make_run(status="interrupted", evaluation=None, training=None))
    figures = sections(text)["Figures"]
    assert "in 10,001 tokens, after 2,000 optimizer steps." in figures
    assert "ended by" not in text
    assert ModelCard(text).data.eval_results


def test_part_of_a_split_is_said_to_be_one(make_run):
    run = make_run()
    facts = RunFolder(run).read_facts()
    RunFolder(run).update_facts(evaluation={**facts["evaluation"], "num_tokens": 4096})
    assert "4,096 of 10,001 tokens" in card_text(run)


def test_run_without_any_evaluation_claims_no_figure(make_run):
    run = make_run(evaluation=None)
    RunFolder(run).metrics_file.unlink()
    text = card_text(run)
    assert "Figures" not in sections(text)
    assert "learning_curve.png" not in text
    assert not (run / "model" / "learning_curve.png").exists()
    assert ModelCard(text).data.eval_results is None


@pytest.mark.parametrize(
    ("git", "said"), [({"commit": "c" * 40, "dirty": True}, "with uncommitted changes"), (None, "not started inside a git repository")]
)
def test_state_of_the_source_is_told(make_run, git, said):
    assert said in sections(card_text(make_run(git=git)))["Reproduction"]


def test_text_from_the_hub_is_named_and_its_result_written(make_run):
    path = write_card(make_run({"data": {"source": "hub", "path": None, "dataset": "somebody/poems", "revision": "e" * 40}}))
    data = ModelCard.load(path).data
    assert data.datasets == ["somebody/poems"]
    assert {(result.dataset_type, result.dataset_revision) for result in data.eval_results} == {("somebody/poems", "e" * 40)}
    (file,) = (path.parent / ".eval_results").iterdir()
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert (entry.dataset_id, entry.dataset_revision, entry.value) == ("somebody/poems", "e" * 40, 2.2)


def test_text_from_elsewhere_has_no_result_for_a_hub_benchmark(make_run):
    assert not (write_card(make_run()).parent / ".eval_results").exists()


@pytest.mark.parametrize(("pretrained", "base"), [("openai-community/gpt2", "openai-community/gpt2"), ("/home/somebody/runs/x/model", None)])
def test_fine_tuned_model_names_its_base(make_run, pretrained, base):
    model = {"family": None, "pretrained": pretrained}
    run = make_run()
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "model": model}), encoding="utf-8")
    text = card_text(run)
    assert ModelCard(text).data.base_model == base
    assert "fine-tuned from `" in text
    assert "/home" not in text
    assert "character-level" not in text


def test_unknown_licence_and_language_of_the_text_are_not_made_up(make_run):
    run = make_run()
    data = RunFolder(run).read_facts()["data"]
    RunFolder(run).update_facts(data={**data, "license": None, "language": None, "description": ""})
    text = card_text(run)
    assert "The licence of the training text was not stated" in sections(text)["Limitations"]
    assert "language" not in ModelCard(text).data.to_dict()


def test_many_evaluations_are_thinned_to_a_readable_table(make_run):
    run = RunFolder(make_run())
    last = run.read_metrics()[-1]
    for step in range(2001, 2101):
        run.append_metrics({**last, "step": step})
    rows = re.findall(r"^\| validation \| ([\d,]+) \|", sections(card_text(run.path))["Training"], re.MULTILINE)
    assert len(rows) == MOST_EVALUATIONS
    assert (rows[0], rows[-1]) == ("200", "2,100")


def test_curve_is_a_picture_of_the_width_a_card_shows(make_run):
    with Image.open(write_card(make_run()).parent / "learning_curve.png") as picture:
        assert picture.width == 1400
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50  # something is drawn


def test_run_without_a_model_has_no_card(make_run):
    with pytest.raises(UserError, match=r"no model to describe yet.*--resume"):
        write_card(make_run(model=None))


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        write_card(tmp_path)
