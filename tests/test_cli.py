"""The command line: help, exit statuses, one line for a mistake, and each command on a model that it trained."""

import itertools
import json
import os
import subprocess
import sys

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from hflab.cli import main
from hflab.models.recurrent import RecurrentConfig, RecurrentForSequenceClassification
from hflab.recipe import recipe_names

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom.\n" * 60
SMALL = ["--training.num_steps", "4", "--training.batch_size", "4", "--data.sequence_length", "8", "--evaluation.batch_size", "2"]
SMALL += ["--model.hidden_size", "16", "--training.log_every_steps", "1", "--training.device=cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with own.txt and the run `runs/first` that was trained on it by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "own.txt").write_text(TEXT, encoding="utf-8")
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["train", "own_text", "--data.path", "own.txt", "--run", "first", *SMALL]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def inside(request, monkeypatch):
    if "trained" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("trained"))


@pytest.mark.parametrize("command", [[], ["recipes"], ["train"], ["evaluate"], ["generate"], ["inspect"], ["gradients"], ["card"]], ids=str)
def test_help_answers(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: hflab" in capsys.readouterr().out


def test_help_imports_neither_torch_nor_transformers():
    code = "import sys; sys.argv = ['hflab', '--help']\nfrom hflab.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_recipes_are_listed_printed_and_explained(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in recipe_names())
    assert main(["recipes", "own_text"]) == 0
    assert "sequence_length: 64" in capsys.readouterr().out
    assert main(["recipes", "--keys"]) == 0
    assert "--training.learning_rate" in capsys.readouterr().out
    assert main(["recipes", "--sources"]) == 0
    listed = capsys.readouterr().out
    assert "shakespeare" in listed
    assert "(seq2seq)" in listed.split("cmudict", 1)[1].splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train"], "needs either a recipe or --resume"),
        (["train", "own_tex"], "'own_text'"),
        (["train", "own_text", "--data.pathh", "x"], "'path'"),
        (["train", "own_text", "--data.path"], "needs a value"),
        (["train", "own_text", "--outptu", "x"], "'--output'"),
        (["train", "own_text", "--training.num_steps", "many"], "a whole number"),
        (["train", "own_text", "--data.path", "nowhere.txt"], "nowhere.txt"),
        (["train", "own_text", "--data.path", "--output", "x"], "--data.path needs a value"),
        (["train", "--resume", "nowhere"], "not a run folder"),
        (["train", "--resume", "nowhere", "--training.num_steps", "8"], "not a run folder"),
        (["generate", "no/model", "--data.path", "x"], "'--data.path' is not understood"),
        (["evaluate", "no/model"], "cannot be found"),
        (["evaluate", "no/model", "--model.hidden_size", "3"], "no effect on an evaluation"),
        (["generate", "no/model"], "cannot be loaded"),
        (["generate", "runs/no/model"], "no folder"),
        (["generate", "gpt2"], "hf download gpt2 --local-dir FOLDER"),
        (["generate", "no/model", "--temperature", "-1"], "temperature"),
        (["generate", "no/model", "--num-beams", "3", "--temperature", "0.5"], "set temperature to 0"),
        (["generate", "no/model", "--num-beams", "3", "--top-k", "5"], "top_k is 5 and temperature is 0"),
        (["generate", "no/model", "--output", "texts.jsonl"], "--output goes with --prompts"),
        (["generate", "no/model", "--batch-size", "3"], "--batch-size goes with --prompts"),
        (["generate", "no/model", "--prompts", "p.txt", "--prompt", "x"], "Both --prompt and --prompts"),
        (["generate", "no/model", "--prompts", "p.txt"], "p.txt"),
        (["train", "own_text", "--model.family", "null", "--model.pretrained", "gpt2", "--model.frezze", "x"], "'freeze'"),
        (["train", "own_text", "--model.lora.rank", "4"], "set model.pretrained"),
        (["train", "own_text", "--model.lora.rnk", "4"], "'rank'"),
        (["train", "own_text", "--training.unfreeze_every_steps", "4"], "set model.pretrained"),
        (["generate", "."], "holds no model"),
        (["inspect", "no/model", "--text", "It was"], "cannot be loaded"),
        (["inspect", "runs/no/model", "--text", "It was"], "no folder"),
        (["card", "nowhere"], "nowhere"),
        (["recipes", "nothing"], "no recipe 'nothing'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_2(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert expected in errors
    assert errors.startswith("hflab: ")
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_unknown_commands_end_with_status_2():
    with pytest.raises(SystemExit) as ended:
        main(["trian"])
    assert ended.value.code == 2


def test_training_ends_with_a_summary_that_can_be_followed(trained, capsys):
    assert main(["train", "own_text", "--data.path", "own.txt", "--run", "second", *SMALL]) == 0
    output = capsys.readouterr().out
    assert "bits_per_character" in output
    assert "runs/second/model" in output
    assert "pipeline(" in output
    usage = json.loads((trained / "runs/second/run.json").read_text(encoding="utf-8"))["usage"]
    assert usage["output"]
    assert (trained / "runs/second/model/README.md").is_file()


def test_an_example_that_is_not_tried_is_shown_nowhere(trained, capsys):
    assert main(["train", "own_text", "--data.path", "own.txt", "--run", "untried", *SMALL, "--publish.try_usage", "false"]) == 0
    assert "pipeline(" not in capsys.readouterr().out
    assert "usage" not in json.loads((trained / "runs/untried/run.json").read_text(encoding="utf-8"))
    assert "```python" not in (trained / "runs/untried/model/README.md").read_text(encoding="utf-8")


def test_a_taken_name_is_refused_and_nothing_changes(trained, capsys):
    before = (trained / "runs/first/run.json").read_bytes()
    assert main(["train", "own_text", "--data.path", "own.txt", "--run", "first", *SMALL]) == 2
    assert "--resume" in capsys.readouterr().err
    assert (trained / "runs/first/run.json").read_bytes() == before


def test_evaluate_repeats_the_recorded_figure(trained, capsys):
    assert main(["evaluate", "runs/first", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    recorded = json.loads((trained / "runs/first/run.json").read_text(encoding="utf-8"))["evaluation"]
    assert figures["loss"] == pytest.approx(recorded["loss"], rel=1e-6)
    assert figures["num_tokens"] == recorded["num_tokens"]


def test_evaluate_takes_other_data(trained, capsys):
    assert main(["evaluate", "runs/first/model", "--data", "own.txt"]) == 0
    output = capsys.readouterr().out
    assert f"{len(TEXT):,}" in output
    assert main(["evaluate", "runs/first", "--split", "tset"]) == 2
    assert "choose from: train, validation" in capsys.readouterr().err


def test_generate_prints_prompt_and_text_and_repeats_itself_by_seed(trained, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["generate", "runs/first/model", "--prompt", "It was", "--max-new-tokens", "30", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("It was")
    assert texts[0] == texts[1] != texts[2]


def test_generate_names_the_characters_it_does_not_know(trained, capsys):
    assert main(["generate", "runs/first/model", "--prompt", "Zürich"]) == 2
    errors = capsys.readouterr().err
    assert "'Z'" in errors
    assert "'ü'" in errors


@pytest.fixture(scope="module")
def answering(trained):
    """Besides, `runs/pairs`, an encoder-decoder that was trained on a few pairs of letters."""
    rows = [{"source": " ".join(letters), "target": " ".join(reversed(letters))} for letters in itertools.permutations("abcd")]
    (trained / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (trained / "pairs.yaml").write_text(
        "task: seq2seq\ndata: {source: examples, path: pairs.jsonl, max_source_tokens: 8}\nprocessor: {tokenizer: symbols}\n"
        "model: {family: recurrent, cell_type: gru, hidden_size: 32, attention_type: additive}\n"
        "training: {num_steps: 60, batch_size: 8, learning_rate: 0.01, device: cpu}\nevaluation: {num_beams: 2}\n",
        encoding="utf-8",
    )
    before = os.getcwd()
    os.chdir(trained)
    try:
        assert main(["train", "pairs.yaml", "--run", "pairs"]) == 0
    finally:
        os.chdir(before)
    return trained


def test_every_option_of_generate_reaches_an_answer(answering, monkeypatch, capsys):
    monkeypatch.chdir(answering)

    def answer(*options):
        assert main(["generate", "runs/pairs", "--prompt", "a b c d", *options]) == 0
        return capsys.readouterr().out.rstrip("\n")

    whole = answer("--num-beams", "1")
    assert len(whole.split()) > 2
    assert answer("--stop", whole[2:]) == whole[:2].rstrip()
    assert answer("--stop", whole[0]) == ""
    assert answer("--max-new-tokens", "2") == " ".join(whole.split()[:2])
    assert answer("--temperature", "0") == whole
    assert answer("--repetition-penalty", "0.001") != whole  # below 1: what was written is likelier
    assert answer() == answer("--num-beams", "2", "--max-new-tokens", "8")
    assert main(["generate", "runs/pairs", "--prompt", "a b", "--top-k", "5"]) == 2
    assert "top_k is 5" in capsys.readouterr().err


def test_prompts_of_a_file_are_answered_as_one_by_one(answering, monkeypatch, capsys):
    monkeypatch.chdir(answering)
    prompts = ["a b c d", "c a", "d"]
    (answering / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")

    def generate(*options):
        assert main(["generate", "runs/pairs", *options]) == 0
        return capsys.readouterr().out

    for options in ([], ["--max-new-tokens", "3"], ["--temperature", "1", "--seed", "4"]):
        rows = [json.loads(line) for line in generate("--prompts", "prompts.txt", "--batch-size", "2", *options).splitlines()]
        assert [row["prompt"] for row in rows] == prompts
        for index, row in enumerate(rows):
            own = [str(4 + index) if option == "4" else option for option in options]
            assert generate("--prompt", row["prompt"], *own) == row["text"] + "\n"


def test_libraries_add_nothing_to_what_is_printed(answering, monkeypatch, capsys, caplog):
    monkeypatch.chdir(answering)
    for words in (
        ["generate", "runs/pairs", "--prompt", "a", "--max-new-tokens", "3"],
        ["inspect", "runs/pairs", "--text", "a", "--output", "pairs"],
    ):
        assert main(words) == 0
    assert capsys.readouterr().err == ""
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


def test_a_prompt_that_cannot_be_answered_is_named_before_any_is(answering, monkeypatch, capsys):
    monkeypatch.chdir(answering)
    (answering / "prompts.jsonl").write_text('{"prompt": "a b"}\n{"prompt": " "}\n', encoding="utf-8")
    assert main(["generate", "runs/pairs", "--prompts", "prompts.jsonl"]) == 2
    captured = capsys.readouterr()
    assert "Prompt 2: The prompt is empty" in captured.err
    assert captured.out == ""


def test_a_model_with_another_head_does_not_write_at_random(answering, monkeypatch, capsys):
    monkeypatch.chdir(answering)
    tokenizer = AutoTokenizer.from_pretrained("runs/pairs/model", trust_remote_code=True)
    recurrent = RecurrentForSequenceClassification(RecurrentConfig(vocab_size=len(tokenizer), hidden_size=8))
    tied = GPT2ForSequenceClassification(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2))
    for model, expected in ((recurrent, "has no weights for lm_head.bias"), (tied, "not as GPT2LMHeadModel")):
        model.save_pretrained("classifier")
        tokenizer.save_pretrained("classifier")
        assert main(["generate", "classifier", "--prompt", "a b"]) == 2
        errors = capsys.readouterr().err
        assert f"saved as {type(model).__name__}" in errors
        assert expected in errors
        assert errors.count("\n") == 1


def test_inspect_writes_a_page_and_a_picture_and_leaves_other_files(trained, capsys):
    folder = trained / "seen"
    folder.mkdir()
    for name in ("surprise_and_state.html", "mine.txt"):
        (folder / name).write_text("before", encoding="utf-8")
    assert main(["inspect", "runs/first", "--text", "It was the age", "--output", "seen"]) == 0
    assert capsys.readouterr().out.splitlines() == ["seen/surprise_and_state.html", "seen/surprise_and_state.png"]
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "surprise_and_state.html", "surprise_and_state.png"]
    assert (folder / "mine.txt").read_text(encoding="utf-8") == "before"
    assert "<em>first</em>" in (folder / "surprise_and_state.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--text", " "], "text is empty"),
        (["--text", "Zürich"], "'ü'"),
        (["--text", "It was " * 50], "350 tokens, but at most 240"),
        (["--text", "It was", "--target", "It"], "no decoder"),
        (["--text", "It was", "--output", "own.txt"], "own.txt"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_a_mistake_of_inspect_is_one_line_and_status_2(arguments, expected, trained, capsys):
    assert main(["inspect", "runs/first", *arguments]) == 2
    errors = capsys.readouterr().err
    assert expected in errors
    assert errors.count("\n") == 1
    assert not (trained / "inspect").exists()


def test_generate_continues_every_prompt_of_a_file(trained, capsys):
    (trained / "prompts.txt").write_text("It was\nthe age\nIt was\n", encoding="utf-8")
    files = []
    for size in ("1", "3"):
        words = ["generate", "runs/first/model", "--prompts", "prompts.txt", "--max-new-tokens", "12", "--seed", "4", "--batch-size", size]
        assert main([*words, "--output", f"texts{size}.jsonl"]) == 0
        files.append((trained / f"texts{size}.jsonl").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in files[0].splitlines()]
    assert files[0] == files[1]
    assert [row["prompt"] for row in rows] == ["It was", "the age", "It was"]
    capsys.readouterr()
    assert main(["generate", "runs/first/model", "--prompt", "the age", "--max-new-tokens", "12", "--seed", "5"]) == 0
    assert capsys.readouterr().out == rows[1]["prompt"] + rows[1]["text"] + "\n"
    assert main(["generate", "runs/first/model", "--prompts", "prompts.txt", "--output", "texts.txt"]) == 2
    assert ".jsonl" in capsys.readouterr().err


def test_generate_by_beam_search_and_stop_string(trained, capsys):
    words = ["generate", "runs/first/model", "--prompt", "It was", "--num-beams", "3", "--max-new-tokens", "10"]
    assert main(words) == 0
    whole = capsys.readouterr().out
    assert whole.startswith("It was")
    assert main([*words, "--stop", whole[8]]) == 0
    assert capsys.readouterr().out == whole[: whole.index(whole[8], 6)] + "\n"


def test_a_pretrained_model_that_is_not_there_is_one_line(trained, capsys):
    words = ["train", "own_text", "--data.path", "own.txt", "--data.layout", "windows", "--model.pretrained", "gpt2", "--model.family", "null"]
    assert main([*words, "--model.embedding_size", "null"]) == 2
    assert "model.pretrained is 'gpt2', which cannot be loaded" in capsys.readouterr().err
    (trained / "tune.yaml").write_text(
        "data: {path: own.txt, layout: windows}\nmodel: {pretrained: gpt2}\ntraining: {num_steps: 2, device: cpu}\n", encoding="utf-8"
    )
    assert main(["train", "tune.yaml"]) == 2
    errors = capsys.readouterr().err
    assert "hf download gpt2" in errors
    assert errors.count("\n") == 1
    assert main(["train", "own_text", "--data.path", "own.txt", "--processor.tokenizer", "gpt2"]) == 2
    errors = capsys.readouterr().err
    assert "processor.tokenizer is 'gpt2'" in errors
    assert "--processor.tokenizer FOLDER" in errors
    assert errors.count("\n") == 1


def test_card_is_written_anew(trained, capsys):
    card = trained / "runs/first/model/README.md"
    before = card.read_text(encoding="utf-8")
    card.write_text("", encoding="utf-8")
    assert main(["card", "runs/first"]) == 0
    assert card.read_text(encoding="utf-8") == before
