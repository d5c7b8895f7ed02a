"""Tiny seeded models of every family, and what transformers' own tests need: their package and their markers."""

import atexit
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from hflab.models import mini_transformer
from hflab.models.mini_transformer import MiniTransformerConfig
from hflab.models.recurrent import BLOCKS, CELLS, HEADS, RecurrentConfig

VOCAB_SIZE = 23
# What the mini-Transformer can be: every position embedding, norm position and kind of feed-forward, by the models that are made so.
ARCHITECTURES = {
    "vaswani": {},
    "bert": {"hidden_act": "gelu", "position_embedding_type": "learned", "embedding_norm": True, "scale_embedding": False, "type_vocab_size": 2},
    "gpt2": {"hidden_act": "gelu_new", "position_embedding_type": "learned", "norm_position": "pre", "scale_embedding": False},
    "llama": {
        "hidden_act": "swiglu",
        "position_embedding_type": "rotary",
        "norm_position": "pre",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    "nope": {"hidden_act": "geglu", "position_embedding_type": "none", "norm_position": "pre"},
}


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
        sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 12, "num_hidden_layers": 2, "pad_token_id": 0}
        return HEADS[head](RecurrentConfig(**sizes | {"cell_type": cell_type, "block_style": block_style} | fields)).eval()

    return build_model


@pytest.fixture(params=list(ARCHITECTURES))
def architecture(request):
    return request.param


@pytest.fixture
def build_transformer(architecture):
    """Builds a two-layer mini-Transformer of the architecture at hand, in evaluation mode; keyword arguments are config fields."""

    def build_model(head="ForCausalLM", **fields):
        torch.manual_seed(0)
        sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 40}
        special = {"pad_token_id": 0, "bos_token_id": 2}
        if head == "ForConditionalGeneration" and "type_vocab_size" in ARCHITECTURES[architecture]:
            special["type_vocab_size"] = 0
        fields = sizes | ARCHITECTURES[architecture] | special | fields
        return mini_transformer.HEADS[head](MiniTransformerConfig(**fields)).eval()

    return build_model


@pytest.fixture
def tokens():
    """Three rows of nine tokens (B, T), none of them padding."""
    return torch.randint(1, VOCAB_SIZE, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def recogniser(build):
    """Builds a tiny speech recogniser of six mel bands, in evaluation mode; keyword arguments are config fields."""

    def build_recogniser(**fields):
        sizes = {"num_mel_bins": 6} | ({"embedding_size": 6} if fields.get("num_conv_layers") == 0 else {})
        return build("ForCTC", **sizes | fields)

    return build_recogniser


@pytest.fixture
def speech():
    """Features (4, 29, 6) and their mask; what stands at padding is as large as the rest, so that it would be noticed.

    The rows have 29 frames, odd, 16, a multiple of every stride, 5 and 1, fewer than one stride.
    """
    features = torch.randn(4, 29, 6, generator=torch.Generator().manual_seed(1))
    return {"input_features": features, "attention_mask": (torch.arange(29) < torch.tensor([29, 16, 5, 1])[:, None]).long()}


@pytest.fixture
def transcripts():
    """Labels (4, 3) for `speech`."""
    return torch.tensor([[3, 3, 7], [9, 4, -100], [5, -100, -100], [8, -100, -100]])


STAND_INS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}


def link_transformers_tests(folder):
    """Make `transformers_own_tests` importable: a package of links into `folder`, with stand-ins for what is not there."""
    root = Path(tempfile.mkdtemp(prefix="hflab-transformers-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    package = root / "transformers_own_tests"
    package.mkdir()
    for entry in folder.iterdir():
        (package / entry.name).symlink_to(entry.resolve())
    (package / "__init__.py").touch()
    for name, code in STAND_INS.items():
        if not (package / name).exists():
            (package / name).parent.mkdir()
            (package / name).with_name("__init__.py").touch()
            (package / name).write_text(code)
    sys.path.insert(0, str(root))


def pytest_configure(config):
    """Link transformers' own tests (test_transformers_mixin_….py) and register their markers, which --strict-markers wants to know."""
    folder = os.environ.get("HFLAB_TRANSFORMERS_TESTS")
    if folder is None:
        return
    link_transformers_tests(Path(folder))
    import transformers.testing_utils

    sources = [Path(transformers.testing_utils.__file__), *Path(folder).glob("test_*.py"), *Path(folder).glob("*/test_*.py")]
    names = {name for source in sources for name in re.findall(r"\bmark\.(\w+)", source.read_text(encoding="utf-8"))}
    for name in sorted(names - {"parametrize", "skip", "skipif", "slow", "xfail"}):
        config.addinivalue_line("markers", f"{name}: of transformers' own tests")
