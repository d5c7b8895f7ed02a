"""Publishing to a real Hub, and what is noticed there."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file, save_file

from hflab import api
from hflab.cli import main
from hflab.errors import UserError
from hflab.hub.publishing import PublishOptions, downloaded, publish
from hflab.publication import publish as publish_and_verify

from .conftest import READ_TOKEN, WRITE_TOKEN, client_environment

RECIPE = """
task: causal_lm
data: {source: text, path: TEXT, license: cc0-1.0, language: en, layout: lanes, sequence_length: 16}
processor: {tokenizer: character}
model: {family: recurrent, cell_type: lstm, hidden_size: 16}
training: {num_steps: 3, batch_size: 4, device: cpu}
evaluation: {batch_size: 4, max_tokens: 200, sample_tokens: 4}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    (folder / "tiny.yaml").write_text(RECIPE.replace("TEXT", str(folder / "text.txt")))
    return api.train(folder / "tiny.yaml", output=folder / "runs").path


@pytest.fixture
def run(trained, tmp_path):
    """A copy that may be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "tiny"))


@pytest.fixture(autouse=True)
def client(hub, monkeypatch):
    """This process as a client of the Hub, with the token that may write."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    return HfApi(endpoint=hub.address, token=WRITE_TOKEN)


def spoil(hub, sha256):
    """Flip a bit of a large file on the server's disk."""
    blob = hub.root / "blobs" / sha256[:2] / sha256
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)


def test_a_language_model_goes_and_comes_back_the_same(hub, client, run, capsys):
    said = []
    publication = publish_and_verify(run, "ada/round", PublishOptions(tag="v1"), say=said.append)
    published = publication.published
    assert publication.figures["bits_per_character"] > 0
    assert any("the card says" in line for line in said)
    assert any("same logits" in line for line in said)
    info = client.model_info("ada/round", revision="v1")
    assert info.sha == published.commit
    assert info.card_data.license == "apache-2.0"
    assert {file.rfilename for file in info.siblings} == {*published.files, ".gitattributes"}
    assert len(client.list_repo_commits("ada/round")) == 2  # the one that made the repository, and one for all files
    assert "'ada/round'" in (run / "model" / "README.md").read_text()
    again = publish_and_verify(run, "ada/round", PublishOptions(tag="v1"))
    assert (again.published.commit, again.published.changed) == (published.commit, False)


def test_only_what_changed_is_sent_and_what_is_gone_is_removed(client, run):
    said = []
    publish(run / "model", "ada/changes", PublishOptions(), say=said.append)
    client.upload_file(path_or_fileobj=b"hand-made", path_in_repo="demo/page.html", repo_id="ada/changes")
    (run / "model" / "learning_curve.png").unlink()
    (run / "model" / "generation_config.json").write_text("{}")
    published = publish(run / "model", "ada/changes", PublishOptions(), say=said.append)
    assert "1 changed" in said[-1]
    assert "1 removed" in said[-1]
    assert "2 bytes to send" in said[-1]
    assert client.file_exists("ada/changes", "demo/page.html")
    assert not client.file_exists("ada/changes", "learning_curve.png")
    with downloaded(published, PublishOptions()) as found:
        assert (found / "generation_config.json").read_text() == "{}"


def test_a_commit_in_between_is_not_overwritten(client, run):
    client.create_repo("ada/race")

    def meanwhile(line):
        client.upload_file(path_or_fileobj=b"theirs", path_in_repo="config.json", repo_id="ada/race")

    with pytest.raises(UserError, match="another commit meanwhile"):
        publish(run / "model", "ada/race", PublishOptions(), say=meanwhile)
    assert Path(client.hf_hub_download("ada/race", "config.json", cache_dir=run)).read_text() == "theirs"


def test_branches_pull_requests_and_private_repositories(client, run):
    publish(run / "model", "ada/kinds", PublishOptions(private=True), say=lambda line: None)
    assert client.model_info("ada/kinds").private
    (run / "model" / "generation_config.json").write_text("{}")
    branch = publish(run / "model", "ada/kinds", PublishOptions(revision="dev/next", tag="next"), say=lambda line: None)
    assert {ref.name: ref.target_commit for ref in client.list_repo_refs("ada/kinds").branches}["dev/next"] == branch.commit
    proposed = publish(run / "model", "ada/kinds", PublishOptions(create_pr=True), say=lambda line: None)
    with downloaded(proposed, PublishOptions(create_pr=True)) as found:
        assert (found / "generation_config.json").read_text() == "{}"
    assert proposed.pull_request.endswith("/discussions/1")
    client.merge_pull_request("ada/kinds", 1)
    with pytest.raises(UserError, match="another --tag"):
        publish(run / "model", "ada/kinds", PublishOptions(tag="next"), say=lambda line: None)


def test_a_byte_that_the_server_lost_is_noticed(hub, run):
    weights = api.RunFolder(run).read_facts()["model"]["weights_sha256"]

    def say(line):
        if line.startswith("Downloading"):
            spoil(hub, weights)

    try:
        with pytest.raises(UserError, match=r"model\.safetensors"):
            publish_and_verify(run, "ada/spoilt", say=say)
    finally:
        spoil(hub, weights)  # other repositories share it


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("model.safetensors", "says|other logits"),
        ("modeling_recurrent.py", "usage example"),
        ("README.md", "cannot be published"),
    ],
)
def test_what_does_not_do_what_it_says_is_not_sent(client, run, spoilt, message):
    file = run / "model" / spoilt
    if spoilt == "model.safetensors":
        save_file({name: value * 30 for name, value in load_file(file).items()}, file, {"format": "pt"})
    elif spoilt == "README.md":
        (run / "model" / ".env").write_text("KEY=1")
    else:
        file.write_text(file.read_text() + "\nraise ValueError('broken')\n")
    with pytest.raises(UserError, match=message):
        publish_and_verify(run, "ada/never")
    assert not client.repo_exists("ada/never")


def test_code_that_computes_something_else_without_hflab_is_not_sent(client, run):
    """The weights and the usage example are in order, but strangers would get other numbers."""
    code = run / "model" / "heads_recurrent.py"
    config = run / "model" / "modeling_recurrent.py"
    config.write_text(config.read_text().replace("self.lm_head(", "1.1 * self.lm_head("))
    assert "1.1 *" in config.read_text() + code.read_text()
    with pytest.raises(UserError, match="other logits"):
        publish_and_verify(run, "ada/never")
    assert not client.repo_exists("ada/never")


@pytest.mark.parametrize(("token", "message"), [("", "no token"), ("hf_wrong", "does not know the token"), (READ_TOKEN, "may not write")])
def test_tokens(hub, run, monkeypatch, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_HOME", str(run))
    with pytest.raises(UserError, match=message) as caught:
        publish(run / "model", "ada/token", PublishOptions(), say=lambda line: None)
    assert "hf_" not in str(caught.value)


def test_a_hub_that_is_not_there(run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="did not answer"):
        publish(run / "model", "ada/x", PublishOptions(), say=lambda line: None)


@pytest.mark.parametrize("name", ["tiny", "a b/c", "ada/x/y", "ada/..", ""])
def test_names_that_no_repository_can_have(run, name):
    with pytest.raises(UserError):
        publish_and_verify(run, name)


def test_the_command(client, run, tmp_path, capsys):
    assert main(["publish", str(run), "ada/command", "--dry-run"]) == 0
    assert "Nothing was sent." in capsys.readouterr().out
    assert not client.repo_exists("ada/command")
    assert main(["publish", str(run), "ada/command"]) == 0
    assert f"Published {client.endpoint}/ada/command" in capsys.readouterr().out
    # the folder alone, as a stranger has it: the text is not there, so the figures are not measured again
    folder = client.snapshot_download("ada/command", local_dir=tmp_path / "copy")
    status = main(["publish", folder, "ada/command"])
    output, errors = capsys.readouterr()
    assert status == 0, errors
    assert "Warning: its figures were not measured again" in output
    assert "had all of it already" in output
    assert main(["publish", str(run / "none"), "ada/command"]) == 2


@pytest.mark.parametrize("index", ["model-index: 3", "model-index: [{name: x, results: [{}]}]", "model-index: []"])
def test_a_card_whose_metadata_somebody_spoilt(client, run, tmp_path, index):
    folder = shutil.copytree(run / "model", tmp_path / "copy")
    card = folder / "README.md"
    text = card.read_text()
    card.write_text("---\nlicense: mit\n" + index + text[text.index("\n---\n") :])
    if index.endswith("[]"):
        publish_and_verify(folder, "ada/spoilt-card", dry_run=True)
        return
    with pytest.raises(UserError, match="model-index"):
        publish_and_verify(folder, "ada/spoilt-card", dry_run=True)


def test_a_data_set(client, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Rows\n")
    (tmp_path / "train.jsonl").write_text("".join(f'{{"text": "row {number}"}}\n' for number in range(7)))
    said = []
    options = PublishOptions(repo_type="dataset", tag="v1")
    publication = publish_and_verify(tmp_path, "ada/rows", options, say=said.append)
    assert '{"train": 7} rows' in said[0]
    assert client.dataset_info("ada/rows", revision="v1").sha == publication.published.commit
    client.upload_file(path_or_fileobj=b"theirs", path_in_repo="vocab.txt", repo_id="ada/rows", repo_type="dataset")
    assert publish(tmp_path, "ada/rows", PublishOptions(repo_type="dataset"), say=said.append).changed is False
    assert client.file_exists("ada/rows", "vocab.txt", repo_type="dataset")
    (tmp_path / "train.jsonl").write_text("{broken")
    with pytest.raises(UserError, match="cannot load"):
        publish_and_verify(tmp_path, "ada/rows", options)


@pytest.mark.slow
def test_an_adapter_of_a_model_on_the_hub(hub, client, run, tmp_path):
    """Processes of their own, as a user has them: their caches begin empty, and the base with its code comes from the Hub."""
    (tmp_path / "lora.yaml").write_text(
        "data: {source: text, path: text.txt, license: cc0-1.0, layout: windows, sequence_length: 16}\n"
        "model: {pretrained: ada/base, lora: {rank: 2, merge: false}}\ntraining: {num_steps: 3, batch_size: 4, device: cpu}\n"
    )
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    environment = client_environment(hub, tmp_path / "home", PYTHONPATH=str(Path(__file__).parents[3]))
    for words in (["publish", run, "ada/base"], ["train", "lora.yaml", "--run", "lora"], ["publish", "runs/lora", "ada/adapter"]):
        command = [sys.executable, "-m", "hflab", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "Published" in done.stdout
    assert client.model_info("ada/adapter").card_data.base_model == "ada/base"


def test_cards_are_valid_to_the_client_that_asks_the_hub(client, run):
    for card in (run / "model" / "README.md", *(Path(__file__).parents[3] / "model_cards").glob("*/model/README.md")):
        ModelCard.load(card).validate()
    with pytest.raises(ValueError, match="tags"):
        ModelCard("---\ntags: [3]\n---\n# A\n").validate()
