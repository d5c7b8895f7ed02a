"""Each refusal, on a folder that is right but for one thing."""

import os
import pickle
import zipfile

import pytest

from hflab.hub.preflight import check_dataset, check_model, license_conflict
from hflab.models.recurrent import RecurrentConfig, RecurrentForCausalLM

CARD = "---\nlicense: apache-2.0\n---\n# A model\n\nIt writes.\n\n```text\n[More Information Needed] {{ TODO }}\n```\n"
TOKEN = "hf_" + "aB1" * 10


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    RecurrentForCausalLM(RecurrentConfig(vocab_size=20, hidden_size=8)).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that may be spoilt."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def problems(folder, data_license="mit"):
    return [(problem.file, problem.message, problem.is_error) for problem in check_model(folder, data_license)]


def only_problem(folder, data_license="mit"):
    (problem,) = check_model(folder, data_license)
    assert problem.is_error
    assert problem.cure
    return problem.file, problem.message


def test_a_saved_model_with_a_card_passes(folder):
    assert problems(folder) == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "x.pkl", "training_args.bin", "sub/weights.pth"])
def test_files_that_can_be_pickles(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    assert only_problem(folder)[0] == name


def test_a_pickle_by_any_name(folder):
    (folder / "vocab.txt").write_bytes(pickle.dumps({"a": 1}))
    assert "pickle" in only_problem(folder)[1]
    with zipfile.ZipFile(folder / "vocab.txt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    assert "pickle" in only_problem(folder)[1]


def test_a_file_that_no_model_has(folder):
    (folder / "notes.txt").write_text("buy milk")
    assert only_problem(folder) == ("notes.txt", "this is no file of a model")


def test_python_that_the_config_does_not_name(folder):
    (folder / "extra.py").write_text("x = 1\n")
    assert only_problem(folder)[0] == "extra.py"


def test_an_environment_file(folder):
    (folder / ".env").write_text("A=1")
    assert only_problem(folder) == (".env", "such files hold secrets")


def test_links_out_of_the_folder(folder, tmp_path):
    (tmp_path / "secret").mkdir()
    (folder / "vocab.txt").symlink_to(tmp_path / "secret")
    assert "leads out" in only_problem(folder)[1]
    (folder / "vocab.txt").unlink()
    (folder / "vocab.txt").symlink_to("/nowhere/at/all")
    assert "leads out" in only_problem(folder)[1]


def test_what_is_no_regular_file(folder):
    os.mkfifo(folder / "vocab.txt")
    assert "no regular file" in only_problem(folder)[1]


SECRETS = {
    "a Hugging Face token": TOKEN,
    "a GitHub token": "ghp_" + "a1" * 20,
    "an AWS key": "AKIA" + "A1" * 8,
    "a Google API key": "AIza" + "a" * 35,
    "an API key": "sk-" + "a" * 30,
    "a Slack token": "xoxb-1234567890-abc",
    "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "a password": 'password = "correct-horse"',
    "credentials in an address": "https://ada:secret@example.org",
    "a path of this machine": "/home/ada/texts/",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_found_and_not_repeated(folder, kind):
    with (folder / "README.md").open("a") as card:
        card.write(f"see {SECRETS[kind]} there\n")
    (problem,) = check_model(folder, "mit")
    assert problem.message == f"line 11 looks like {kind}"
    assert SECRETS[kind] not in str(problem)


def test_a_secret_in_a_config(folder):
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"vocab_size"', f'"key": "{TOKEN}", "vocab_size"'))
    assert only_problem(folder)[0] == "config.json"


FORBIDDEN = [
    "import socket",
    "import os",
    "import importlib",
    "import requests",
    "from pickle import loads",
    "eval('1')",
    "open('/etc/passwd')",
    "from .none import x",
]


@pytest.mark.parametrize("line", FORBIDDEN)
def test_code_that_does_more_than_compute(folder, line):
    name = "modeling_recurrent.py"
    with (folder / name).open("a") as code:
        code.write(f"\n{line}\n")
    assert only_problem(folder)[0] == name


def test_code_that_is_no_python(folder):
    (folder / "modeling_recurrent.py").write_text("def (")
    found = {file: message for file, message, _ in problems(folder)}
    assert "no Python" in found["modeling_recurrent.py"]


def test_a_card_is_needed_with_a_licence_and_without_placeholders(folder):
    card = folder / "README.md"
    card.write_text(CARD + "\n[More Information Needed]\n")
    assert only_problem(folder) == ("README.md", "line 12 has the placeholder '[More Information Needed]'")
    card.write_text("# A model\n")
    assert only_problem(folder) == ("README.md", "the metadata name no licence")
    card.write_text("---\nlicense: [a, b\n---\n# A model\n")
    assert only_problem(folder) == ("README.md", "the metadata name no licence")
    card.write_bytes(CARD.encode() + b"\xff")
    assert "no UTF-8" in only_problem(folder)[1]
    card.unlink()
    assert only_problem(folder) == ("README.md", "there is no card")


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert only_problem(folder) == ("model.safetensors", "there are no weights")


def test_an_adapter_of_a_model_that_nobody_else_has(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "../runs/base/model"}')
    assert only_problem(folder)[0] == "adapter_config.json"
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "ada/base"}')
    assert problems(folder) == []


def test_a_licence_of_the_data_that_is_not_known_is_a_warning(folder):
    assert problems(folder, None) == [("README.md", "the licence of the data is not known", False)]


@pytest.mark.parametrize(
    ("model", "data", "allowed"),
    [
        ("apache-2.0", "mit", True),
        ("apache-2.0", "cc-by-sa-4.0", True),
        ("apache-2.0", "cc-by-nc-4.0", False),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0", True),
        ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", True),
        ("cc-by-nd-4.0", "cc-by-nd-4.0", False),
        ("apache-2.0", "", True),
    ],
)
def test_what_the_licence_of_the_data_allows(folder, model, data, allowed):
    assert (license_conflict(model, data) is None) == allowed
    (folder / "README.md").write_text(CARD.replace("apache-2.0", model))
    assert (problems(folder, data) == []) == allowed


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Data\n")
    (folder / "train.jsonl").write_text('{"text": "password: \\"12345678\\" in /home/ada/x"}\n')
    return folder


def test_data_may_speak_of_passwords_but_not_have_tokens(data):
    assert {(problem.file, problem.is_error) for problem in check_dataset(data)} == {("train.jsonl", False)}
    (data / "train.jsonl").write_text(f'{{"text": "{TOKEN}"}}\n')
    (problem,) = check_dataset(data)
    assert problem.is_error


def test_data_sets_have_data_and_no_code(data):
    (data / "train.jsonl").unlink()
    (problem,) = check_dataset(data)
    assert problem.message == "there are no data"
    (data / "load.py").write_text("x = 1\n")
    (problem,) = check_dataset(data)
    assert problem.file == "load.py"
