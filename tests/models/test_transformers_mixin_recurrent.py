"""transformers' own ModelTesterMixin, run on every cell and block style.

The mixin is no part of the installed package. Unpack the source distribution of the installed version (or check out its tag) and run

    pip download --no-deps --no-binary :all: transformers==$(python -c "import transformers; print(transformers.__version__)")
    tar xzf transformers-*.tar.gz
    HFLAB_TRANSFORMERS_TESTS=$PWD/transformers-<version>/tests pytest tests/models/test_transformers_mixin_recurrent.py

The source distribution leaves out the folders `exporters` and `generation`, whose mixins `test_modeling_common.py` imports. Empty ones take their
place here, and `test_modeling_recurrent.py` covers the ground of the generation mixin. A full checkout brings its own, which are then used.
"""

import atexit
import importlib
import os
import re
import shutil
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path
from types import MappingProxyType, ModuleType

import pytest
import torch

from hflab.models import register_auto_classes
from hflab.models.recurrent import BLOCKS, CELLS, RecurrentConfig, RecurrentForCausalLM, RecurrentModel

TESTS_FOLDER = os.environ.get("HFLAB_TRANSFORMERS_TESTS")
if TESTS_FOLDER is None:
    pytest.skip(
        "transformers' own tests are not at hand; HFLAB_TRANSFORMERS_TESTS=<transformers-x.y.z/tests> pytest tests/models runs them "
        "(this file's first lines say where they come from)",
        allow_module_level=True,
    )

# Why each skip is right: what the reason of the skip holds, and the explanation. A skip for any other reason fails.
EXPLAINED_SKIPS = {
    r"attentions?\b|sdpa": "no attention anywhere in the family",
    r"RoPE|position embeddings": "no positions anywhere in the family",
    r"sparse experts|router_logits|grouped_mm": "no mixture of experts",
    r"composite|subconfigs": "one config without others inside",
    r"sequence-to-sequence|decoder-only": "the class under test has no such head; RecurrentForCausalLM runs the decoder-only test",
    r"_keep_in_fp32_modules": "no module has to stay in float32",
    r"TP plan": "a recurrence is not split over devices; large models shard by FSDP",
    r"No conversion found": "no older checkpoint format exists to convert from",
    r"[Ss]tateful|[Aa]ssist|[Ss]peculat": "a state cannot take tokens back; test_generation_recurrent.py sees it refused",
    r"support padding": "the mixin takes models without attention for unable to pad; test_generation_recurrent.py pads",
    r"features": "no image, audio or video goes in",
    r"requires (an? )?(multiple )?accelerators?|requires CUDA|requires GPU": "needs a GPU; test_training_recurrent.py offloads on the CPU",
    r"requires (Flash Attention|Flex|flex|MPS|bitsandbytes)": "needs another device or a package for attention",
    r"requires (the )?kernels|requires deepspeed|deepspeed": "needs a package that this family does not use",
    r"Not a prioritized model": "transformers 5.17 takes files without a copyright year for old ones; 5.23 runs the test",
    r"test is slow": "transformers runs it only with RUN_SLOW=1",
}


def explained(reason: str) -> bool:
    return any(re.search(pattern, reason) for pattern in EXPLAINED_SKIPS)


STAND_INS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}


def import_modeling_tests(folder: Path) -> ModuleType:
    """Import `test_modeling_common` from a package made of links into `folder`, with stand-ins for what is not there."""
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
    return importlib.import_module("transformers_own_tests.test_modeling_common")


common = import_modeling_tests(Path(TESTS_FOLDER))
register_auto_classes()


class RecurrentModelTester:
    """The small configs and inputs that the mixin asks for."""

    batch_size = 3
    seq_length = 7
    num_hidden_layers = 2
    hidden_size = 16
    is_training = True

    def __init__(self, parent, **config):
        self.parent = parent
        self.config = config

    def get_config(self):
        return RecurrentConfig(
            vocab_size=29,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **self.config,
        )

    def prepare_config_and_inputs_for_common(self):
        input_ids = torch.randint(3, 29, (self.batch_size, self.seq_length), device=common.torch_device)
        attention_mask = torch.ones_like(input_ids)
        attention_mask[0, -2:] = 0
        return self.get_config(), {"input_ids": input_ids, "attention_mask": attention_mask}


class RecurrentMixinTests(common.ModelTesterMixin):
    """What the mixin has to know of this family."""

    all_model_classes = (RecurrentModel,)
    has_attentions = False
    test_can_init_all_missing_weights_before_2023 = True  # our files carry no copyright year, which the mixin takes for old
    model_config = MappingProxyType({})

    def setUp(self):
        self.model_tester = RecurrentModelTester(self, **self.model_config)
        # the mixin decides by these tables of class names inside transformers which model gets labels
        for names, model_class in (
            (common.MODEL_MAPPING_NAMES, RecurrentModel),
            (common.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, RecurrentForCausalLM),
        ):
            table = unittest.mock.patch.dict(names, {"recurrent": model_class.__name__})
            table.start()
            self.addCleanup(table.stop)

    def skipTest(self, reason):  # noqa: N802  unittest's name
        assert explained(reason), f"unexplained skip: {reason}"
        super().skipTest(reason)


class LanguageModelMixinTests(RecurrentMixinTests, common.GenerationTesterMixin):
    """The tests of the generation mixin that look for keys of attention heads in the cache look for states (B, H) here."""

    all_model_classes = (RecurrentModel, RecurrentForCausalLM)

    def _check_past_key_values_for_generate(self, batch_size, past_key_values, seq_length, config):
        assert past_key_values.get_seq_length() == seq_length
        for layer in past_key_values.layers:
            assert layer.keys.shape == (batch_size, config.hidden_size)
            assert layer.values.shape == (batch_size, config.hidden_size if config.cell_type == "lstm" else 0)

    def test_past_key_values_format(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        outputs = RecurrentForCausalLM(config).to(common.torch_device)(**inputs, use_cache=True)
        self._check_past_key_values_for_generate(self.model_tester.batch_size, outputs.past_key_values, self.model_tester.seq_length, config)

    def test_generate_with_static_cache(self, as_embeds=False):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = RecurrentForCausalLM(config).to(common.torch_device).eval()
        if as_embeds:
            inputs["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"])
        options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True}
        static = model.generate(**inputs, cache_implementation="static", **options)
        assert torch.equal(static.sequences, model.generate(**inputs, **options).sequences)
        self._check_past_key_values_for_generate(self.model_tester.batch_size, static.past_key_values, self.model_tester.seq_length + 4, config)

    def test_generate_from_inputs_embeds_with_static_cache(self):
        self.test_generate_with_static_cache(as_embeds=True)


QUICK = {("lstm", "stacked"), ("gru", "residual")}


def mixin_class(cell_type, block_style):
    name = f"Test{cell_type.capitalize()}{block_style.capitalize()}"
    tests = type(name, (LanguageModelMixinTests, unittest.TestCase), {"model_config": {"cell_type": cell_type, "block_style": block_style}})
    return name, tests if (cell_type, block_style) in QUICK else pytest.mark.slow(tests)


globals().update(mixin_class(cell_type, block_style) for cell_type in CELLS for block_style in BLOCKS)


class TestTiedNarrow(LanguageModelMixinTests, unittest.TestCase):
    """The head shares an embedding narrower than the hidden state."""

    model_config = MappingProxyType({"tie_word_embeddings": True, "embedding_size": 8, "block_style": "residual"})


class TestBidirectional(RecurrentMixinTests, unittest.TestCase):
    """No language model reads both ways, so only the model without a head."""

    model_config = MappingProxyType({"bidirectional": True})


def test_skips_decided_beforehand_are_explained():
    tests = {name: getattr(LanguageModelMixinTests, name) for name in dir(LanguageModelMixinTests) if name.startswith("test_")}
    methods = {name: test for name, test in tests.items() if callable(test)}
    assert len(methods) > 100
    reasons = {name: test.__unittest_skip_why__ for name, test in methods.items() if getattr(test, "__unittest_skip__", False)}
    assert {name: reason for name, reason in reasons.items() if not explained(reason)} == {}
