"""What the stock clients can do with a Hub: run in a process of its own with HF_ENDPOINT set, it prints a line of JSON for each operation.

python client_session.py FOLDER        # FOLDER: for what the operations write; HF_TOKEN may write, HF_READ_TOKEN only reads
"""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, pipeline

import hflab  # noqa: F401  registers its families
from hflab.models.mini_transformer import MiniTransformerConfig, MiniTransformerForCausalLM
from hflab.models.recurrent import RecurrentConfig, RecurrentForCausalLM

FOLDER = Path(sys.argv[1])
API = HfApi()
OPERATIONS = []


def operation(function):
    OPERATIONS.append(function)
    return function


def refused(kind, status, call):
    """`call` raises this exception with this status."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.response.status_code == status, str(caught.value)


def small_lstm():
    torch.manual_seed(0)
    return RecurrentForCausalLM(RecurrentConfig(vocab_size=300, hidden_size=24, bos_token_id=1, eos_token_id=2, pad_token_id=0))


def same_weights(one, two):
    return all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


@operation
def whoami():
    assert API.whoami()["name"] == "ada"
    refused(HfHubHTTPError, 401, lambda: HfApi(token="hf_unknown").whoami())


@operation
def create_repo():
    API.create_repo("ada/plain")
    API.create_repo("ada/plain", exist_ok=True)
    refused(HfHubHTTPError, 409, lambda: API.create_repo("ada/plain"))
    refused(HfHubHTTPError, 400, lambda: API.create_repo("ada/space", repo_type="space", space_sdk="static"))


@operation
def upload_folder():
    folder = FOLDER / "plain"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [small]\n---\n# Plain\n")
    (folder / "sub" / "a b.txt").write_text("text\n" * 100)
    (folder / "empty.txt").write_text("")
    (folder / "big.safetensors").write_bytes(os.urandom(3_000_000))
    info = API.upload_folder(folder_path=folder, repo_id="ada/plain")
    assert API.model_info("ada/plain").sha == info.oid


@operation
def upload_again_changes_nothing():
    before = API.model_info("ada/plain").sha
    API.upload_folder(folder_path=FOLDER / "plain", repo_id="ada/plain")
    assert API.model_info("ada/plain").sha == before


@operation
def snapshot_and_verify():
    path = Path(snapshot_download("ada/plain", cache_dir=FOLDER / "cache"))
    for file in (FOLDER / "plain").rglob("*"):
        assert file.is_dir() or (path / file.relative_to(FOLDER / "plain")).read_bytes() == file.read_bytes(), file
    local = snapshot_download("ada/plain", local_dir=FOLDER / "local")
    assert not API.verify_repo_checksums("ada/plain", local_dir=local).mismatches


@operation
def model_info_and_lists():
    info = API.model_info("ada/plain", files_metadata=True)
    assert info.card_data.license == "apache-2.0"
    assert {file.rfilename: file.size for file in info.siblings}["big.safetensors"] == 3_000_000
    assert [model.id for model in API.list_models(search="plai", author="ada")] == ["ada/plain"]
    assert [model.id for model in API.list_models(filter="small")] == ["ada/plain"]
    assert not list(API.list_models(search="nothing"))
    assert API.repo_exists("ada/plain")
    assert API.file_exists("ada/plain", "sub/a b.txt")
    assert not API.file_exists("ada/plain", "sub/c")


@operation
def tree_and_paths_info():
    entries = {entry.path: entry for entry in API.list_repo_tree("ada/plain", recursive=True, expand=True)}
    assert entries["big.safetensors"].lfs.size == 3_000_000
    assert entries["sub/a b.txt"].last_commit.title
    assert [entry.path for entry in API.get_paths_info("ada/plain", ["sub", "README.md", "none"])] == ["sub", "README.md"]
    refused(EntryNotFoundError, 404, lambda: list(API.list_repo_tree("ada/plain", "none")))


@operation
def branches_tags_and_history():
    API.create_branch("ada/plain", branch="feature/x")
    API.create_tag("ada/plain", tag="v1", tag_message="One")
    API.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="ada/plain", revision="feature/x")
    refs = API.list_repo_refs("ada/plain")
    assert {ref.name for ref in refs.branches} == {"main", "feature/x"}
    assert [ref.name for ref in refs.tags] == ["v1"]
    assert len(API.list_repo_commits("ada/plain", revision="feature/x")) == len(API.list_repo_commits("ada/plain")) + 1
    hf_hub_download("ada/plain", "x", revision="feature/x", cache_dir=FOLDER / "cache")
    refused(EntryNotFoundError, 404, lambda: hf_hub_download("ada/plain", "x", cache_dir=FOLDER / "cache"))
    refused(HfHubHTTPError, 409, lambda: API.create_branch("ada/plain", branch="feature/x"))
    API.delete_branch("ada/plain", branch="feature/x")
    API.delete_tag("ada/plain", tag="v1")


@operation
def commit_with_parent_copy_and_delete():
    head = API.model_info("ada/plain").sha
    operations = [
        CommitOperationAdd("new.txt", b"new"),
        CommitOperationCopy("big.safetensors", "copy.safetensors"),
        CommitOperationDelete("sub/", is_folder=True),
        CommitOperationDelete("empty.txt"),
    ]
    API.create_commit("ada/plain", operations, commit_message="Several", parent_commit=head)
    assert set(API.list_repo_files("ada/plain")) == {".gitattributes", "README.md", "big.safetensors", "copy.safetensors", "new.txt"}
    refused(HfHubHTTPError, 412, lambda: API.create_commit("ada/plain", [CommitOperationAdd("y", b"y")], commit_message="Late", parent_commit=head))


@operation
def pull_request():
    made = API.create_commit("ada/plain", [CommitOperationAdd("pr.txt", b"1")], commit_message="Proposed", create_pr=True)
    details = API.get_discussion_details("ada/plain", made.pr_num)
    assert details.is_pull_request
    assert details.conflicting_files == []
    assert "+1" in details.diff
    API.comment_discussion("ada/plain", made.pr_num, "Good.")
    API.change_discussion_status("ada/plain", made.pr_num, "open")
    API.merge_pull_request("ada/plain", made.pr_num)
    assert API.file_exists("ada/plain", "pr.txt")
    assert API.get_discussion_details("ada/plain", made.pr_num).status == "merged"


@operation
def discussion():
    made = API.create_discussion("ada/plain", title="A question", description="Why?")
    comment = API.comment_discussion("ada/plain", made.num, "Because.")
    API.edit_discussion_comment("ada/plain", made.num, comment.id, "Therefore.")
    API.rename_discussion("ada/plain", made.num, "An answer")
    API.hide_discussion_comment("ada/plain", made.num, comment.id)
    API.change_discussion_status("ada/plain", made.num, "closed")
    assert [found.title for found in API.get_repo_discussions("ada/plain", discussion_type="discussion", discussion_status="closed")] == ["An answer"]


@operation
def file_system():
    files = HfFileSystem()
    assert "ada/plain/new.txt" in files.ls("ada/plain", detail=False)
    with files.open("ada/plain/big.safetensors", "rb") as file:
        file.seek(1_000_000)
        assert file.read(100) == (FOLDER / "plain" / "big.safetensors").read_bytes()[1_000_000:1_000_100]
    with files.open("ada/plain/written.txt", "w") as file:
        file.write("written")
    assert files.read_text("ada/plain/written.txt") == "written"
    files.rm("ada/plain/written.txt")


@operation
def private_repositories_and_roles():
    API.create_repo("ada/secret", private=True)
    anyone, reader = HfApi(token=False), HfApi(token=os.environ["HF_READ_TOKEN"])
    refused(RepositoryNotFoundError, 404, lambda: anyone.model_info("ada/secret"))
    assert "ada/secret" not in [model.id for model in anyone.list_models()]
    assert reader.model_info("ada/secret").private
    refused(HfHubHTTPError, 403, lambda: reader.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="ada/secret"))
    refused(HfHubHTTPError, 401, lambda: anyone.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="ada/plain"))
    API.update_repo_settings("ada/secret", private=False)
    assert not anyone.model_info("ada/secret").private


@operation
def what_is_not_there():
    refused(RepositoryNotFoundError, 404, lambda: hf_hub_download("ada/none", "x"))
    refused(RevisionNotFoundError, 404, lambda: hf_hub_download("ada/plain", "README.md", revision="none"))
    refused(EntryNotFoundError, 404, lambda: hf_hub_download("ada/plain", "none"))


@operation
def move_squash_and_delete():
    API.create_repo("ada/old")
    API.upload_file(path_or_fileobj=b"1", path_in_repo="a", repo_id="ada/old")
    API.move_repo("ada/old", "ada/new")
    assert API.model_info("ada/old").id == "ada/new"
    API.super_squash_history("ada/new")
    assert len(API.list_repo_commits("ada/new")) == 1
    API.delete_repo("ada/new")
    API.delete_repo("ada/new", missing_ok=True)
    assert not API.repo_exists("ada/new")


@operation
def push_every_family_and_a_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "tokenizer")
    transformer = MiniTransformerForCausalLM(MiniTransformerConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    for name, model in {"lstm": small_lstm(), "transformer": transformer}.items():
        model.push_to_hub(f"ada/{name}")
        tokenizer.push_to_hub(f"ada/{name}")
        assert same_weights(model, AutoModelForCausalLM.from_pretrained(f"ada/{name}"))
        assert AutoTokenizer.from_pretrained(f"ada/{name}")("a b").input_ids == tokenizer("a b").input_ids
    AutoModel.from_pretrained("ada/lstm")


@operation
def pipeline_with_remote_code():
    code = (
        "from transformers import pipeline\n"
        "assert pipeline('text-generation', 'ada/lstm', trust_remote_code=True)('a', max_new_tokens=4)[0]['generated_text']\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert pipeline("text-generation", "ada/transformer")("a", max_new_tokens=4)


@operation
def adapter():
    adapted = get_peft_model(small_lstm(), LoraConfig(r=2, target_modules=["lm_head"]))
    adapted.push_to_hub("ada/adapter")
    assert isinstance(PeftModel.from_pretrained(small_lstm(), "ada/adapter"), PeftModel)


@operation
def trainer_pushes():
    rows = Dataset.from_dict({"input_ids": [[1, 5, 6, 2]] * 8, "labels": [[1, 5, 6, 2]] * 8})
    arguments = TrainingArguments(
        output_dir=str(FOLDER / "trained"),
        max_steps=2,
        per_device_train_batch_size=4,
        push_to_hub=True,
        hub_model_id="ada/trained",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(small_lstm(), arguments, train_dataset=rows)
    trainer.train()
    trainer.push_to_hub()
    AutoModelForCausalLM.from_pretrained("ada/trained")


@operation
def dataset_push_load_and_stream():
    rows = Dataset.from_dict({"text": [f"row {number}" for number in range(1000)], "label": [number % 2 for number in range(1000)]})
    rows.push_to_hub("ada/rows", private=True)
    loaded = load_dataset("ada/rows", split="train", cache_dir=str(FOLDER / "datasets"))
    assert loaded.to_dict() == rows.to_dict()
    streamed = load_dataset("ada/rows", split="train", streaming=True)
    assert [row["text"] for row in streamed.take(3)] == ["row 0", "row 1", "row 2"]


@operation
def safetensors_metadata():
    assert API.get_safetensors_metadata("ada/lstm").parameter_count


@operation
def command_line():
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for arguments in (
        ["auth", "whoami"],
        ["upload", "ada/plain", str(FOLDER / "plain" / "README.md"), "cli.md"],
        ["download", "ada/plain", "cli.md", "--local-dir", str(FOLDER / "cli")],
    ):
        subprocess.run([str(Path(sys.executable).parent / "hf"), *arguments], check=True, capture_output=True, text=True, env=environment)
    assert (FOLDER / "cli" / "cli.md").is_file()


for function in OPERATIONS:
    try:
        function()
        outcome = "ok"
    except Exception:
        outcome = traceback.format_exc()
    sys.stdout.write(json.dumps({"operation": function.__name__, "outcome": outcome}) + "\n")
    sys.stdout.flush()
