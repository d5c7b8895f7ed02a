"""Everything that the stock clients do, against a real server, in their default mode (Xet) and without Xet."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .conftest import HubServer, client_environment

SESSION = Path(__file__).parent / "client_session.py"
NUM_OPERATIONS = 22


@pytest.fixture
def tokenizer_folder(tmp_path):
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    "settings", [pytest.param({}, id="xet"), pytest.param({"HF_HUB_DISABLE_XET": "1"}, id="without xet", marks=pytest.mark.slow)]
)
def test_every_operation_of_the_stock_clients(tmp_path, tokenizer_folder, settings):
    server = HubServer(tmp_path / "hub").start()
    environment = client_environment(server, tmp_path / "home", PYTHONPATH=str(SESSION.parents[3]), **settings)
    session = subprocess.run([sys.executable, SESSION, tmp_path], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert session.returncode == 0, session.stderr
    lines = [json.loads(line) for line in session.stdout.splitlines() if line.startswith('{"operation"')]  # the Trainer prints too
    outcomes = {line["operation"]: line["outcome"] for line in lines}
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "ok"} == {}
    assert len(outcomes) == NUM_OPERATIONS
    came_by_xet = any(path.is_file() and path.name != "name" for path in (server.root / "xet").rglob("*"))
    assert came_by_xet == (not settings)
    assert server.stop() == (0, "")
