"""Tiny seeded recurrent models for every cell and block style, and the markers of transformers' own tests."""

import os
import re
from pathlib import Path

import pytest
import torch

from hflab.models.recurrent import BLOCKS, CELLS, HEADS, RecurrentConfig

VOCAB_SIZE = 23


@pytest.fixture(params=list(CELLS))
def cell_type(request):
    return request.param


@pytest.fixture(params=list(BLOCKS))
def block_style(request):
    return request.param


@pytest.fixture
def build(cell_type, block_style):
    """Builds a two-layer model of the cell and block style at hand, in evaluation mode; keyword arguments are config fields."""

    def build_model(head="ForCausalLM", **fields):
        torch.manual_seed(0)
        fields = {"cell_type": cell_type, "block_style": block_style} | fields
        return HEADS[head](RecurrentConfig(vocab_size=VOCAB_SIZE, hidden_size=12, num_hidden_layers=2, pad_token_id=0, **fields)).eval()

    return build_model


@pytest.fixture
def tokens():
    """Three rows of nine tokens (B, T), none of them padding."""
    return torch.randint(1, VOCAB_SIZE, (3, 9), generator=torch.Generator().manual_seed(1))


def pytest_configure(config):
    """Register the markers of transformers' own tests (test_transformers_mixin_recurrent.py), which --strict-markers wants to know."""
    folder = os.environ.get("HFLAB_TRANSFORMERS_TESTS")
    if folder is None:
        return
    import transformers.testing_utils

    sources = [Path(transformers.testing_utils.__file__), *Path(folder).glob("test_*.py"), *Path(folder).glob("*/test_*.py")]
    names = {name for source in sources for name in re.findall(r"\bmark\.(\w+)", source.read_text(encoding="utf-8"))}
    for name in sorted(names - {"parametrize", "skip", "skipif", "slow", "xfail"}):
        config.addinivalue_line("markers", f"{name}: of transformers' own tests")
