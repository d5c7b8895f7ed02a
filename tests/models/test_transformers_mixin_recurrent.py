"""transformers' own ModelTesterMixin, run on every cell and block style.

The mixin is no part of the installed package. Unpack the source distribution of the installed version (or check out its tag) and run

    pip download --no-deps --no-binary :all: transformers==$(python -c "import transformers; print(transformers.__version__)")
    tar xzf transformers-*.tar.gz
    HFLAB_TRANSFORMERS_TESTS=$PWD/transformers-<version>/tests pytest tests/models/test_transformers_mixin_recurrent.py

The source distribution leaves out the folders `exporters` and `generation`, whose mixins `test_modeling_common.py` imports. Empty ones take their
place (conftest.py), and `test_modeling_recurrent.py` covers the ground of the generation mixin. A full checkout brings its own, which are then used.
"""

import importlib
import os
import re
import unittest
import unittest.mock
from types import MappingProxyType

import pytest
import torch

from hflab.models import register_auto_classes
from hflab.models.recurrent import (
    BLOCKS,
    CELLS,
    RecurrentConfig,
    RecurrentForCausalLM,
    RecurrentForConditionalGeneration,
    RecurrentForCTC,
    RecurrentForSequenceClassification,
    RecurrentForTokenClassification,
    RecurrentModel,
)
from hflab.models.recurrent.ctc_recurrent import ConvolutionalSubsampling

TESTS_FOLDER = os.environ.get("HFLAB_TRANSFORMERS_TESTS")
if TESTS_FOLDER is None:
    pytest.skip(
        "transformers' own tests are not at hand; HFLAB_TRANSFORMERS_TESTS=<transformers-x.y.z/tests> pytest tests/models runs them "
        "(this file's first lines say where they come from)",
        allow_module_level=True,
    )

# Why each skip is right: what the reason of the skip holds, and the explanation. A skip for any other reason fails.
EXPLAINED_SKIPS = {
    r"attentions?\b|sdpa": "no self-attention anywhere in the family; test_seq2seq_recurrent.py tests the decoder's attention",
    r"RoPE|position embeddings": "no positions anywhere in the family",
    r"sparse experts|router_logits|grouped_mm": "no mixture of experts",
    r"composite|subconfigs": "one config without others inside",
    r"sequence-to-sequence|decoder-only": "the class under test is of the other kind; both kinds run their own test",
    r"no `base_model_class`": "tests of rotary positions look for the class without a head, which an encoder-decoder has not",
    r"does not propagate hidden states": "an encoder-decoder calls them encoder_hidden_states and decoder_hidden_states",
    r"_keep_in_fp32_modules": "no module has to stay in float32",
    r"TP plan": "a recurrence is not split over devices; large models shard by FSDP",
    r"No model with a differentiable loss": "it looks for one weight, and convolutions have more; test_ctc_training_recurrent.py has adapters there",
    r"No conversion found": "no older checkpoint format exists to convert from",
    r"[Ss]tateful|[Aa]ssist|[Ss]peculat": "a state cannot take tokens back; test_generation_recurrent.py sees it refused",
    r"support padding": "the mixin takes models without attention for unable to pad; test_generation_recurrent.py pads",
    r"features": "no image or video goes in",
    r"doesn't use `inputs_embeds`|test_resize_embeddings": "a speech recogniser reads features; test_ctc_recurrent.py sees resizing refused",
    r"requires (an? )?(multiple )?accelerators?|requires CUDA|requires GPU": "needs a GPU; test_training_recurrent.py offloads on the CPU",
    r"requires (Flash Attention|Flex|flex|MPS|bitsandbytes)": "needs another device or a package for attention",
    r"requires (the )?kernels|requires deepspeed|deepspeed": "needs a package that this family does not use",
    r"Not a prioritized model": "transformers 5.17 takes files without a copyright year for old ones; 5.23 runs the test",
    r"test is slow": "transformers runs it only with RUN_SLOW=1",
}


def explained(reason: str) -> bool:
    return any(re.search(pattern, reason) for pattern in EXPLAINED_SKIPS)


common = importlib.import_module("transformers_own_tests.test_modeling_common")  # the package that conftest.py makes
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

    all_model_classes = (RecurrentModel, RecurrentForSequenceClassification, RecurrentForTokenClassification)
    has_attentions = False
    test_can_init_all_missing_weights_before_2023 = True  # our files carry no copyright year, which the mixin takes for old
    model_config = MappingProxyType({})
    model_tester_class = RecurrentModelTester
    base_model_name = "RecurrentModel"

    def setUp(self):
        self.model_tester = self.model_tester_class(self, **self.model_config)
        # the mixin decides by these tables of class names inside transformers which model gets labels
        for names, class_name in (
            (common.MODEL_MAPPING_NAMES, self.base_model_name),
            (common.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "RecurrentForCausalLM"),
            (common.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, "RecurrentForSequenceClassification"),
            (common.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, "RecurrentForTokenClassification"),
            (common.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, "RecurrentForConditionalGeneration"),
        ):
            table = unittest.mock.patch.dict(names, {"recurrent": class_name})
            table.start()
            self.addCleanup(table.stop)

    def skipTest(self, reason):  # noqa: N802  unittest's name
        assert explained(reason), f"unexplained skip: {reason}"
        super().skipTest(reason)


class LanguageModelMixinTests(RecurrentMixinTests, common.GenerationTesterMixin):
    """The tests of the generation mixin that look for keys of attention heads in the cache look for states (B, H) here."""

    all_model_classes = (*RecurrentMixinTests.all_model_classes, RecurrentForCausalLM)
    all_generative_model_classes = (RecurrentForCausalLM,)

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
    """No language model reads both ways, so only the other heads."""

    model_config = MappingProxyType({"bidirectional": True, "pooling": "max"})


class EncoderDecoderTester(RecurrentModelTester):
    """The same with a source and a target."""

    encoder_seq_length = decoder_seq_length = 7

    def get_config(self):
        config = super().get_config()
        config.is_encoder_decoder, config.decoder_start_token_id = True, 1
        return config

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        decoder_input_ids = torch.randint(3, 29, (self.batch_size, self.decoder_seq_length), device=common.torch_device)
        return config, inputs | {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": torch.ones_like(decoder_input_ids)}


class EncoderDecoderMixinTests(RecurrentMixinTests, common.GenerationTesterMixin):
    """The mixins on the encoder-decoder, whose base model is its encoder."""

    all_model_classes = (RecurrentForConditionalGeneration,)
    base_model_name = "RecurrentEncoder"
    is_encoder_decoder = True
    model_tester_class = EncoderDecoderTester


class TestEncoderDecoder(EncoderDecoderMixinTests, unittest.TestCase):
    """Two-way encoder."""

    model_config = MappingProxyType({"bidirectional": True})


class TestEncoderDecoderTied(EncoderDecoderMixinTests, unittest.TestCase):
    """One weight for both embeddings, narrower than the hidden state, and the output layer, with residual blocks and additive attention."""

    model_config = MappingProxyType(
        {"tie_word_embeddings": True, "share_embeddings": True, "embedding_size": 8, "block_style": "residual", "attention_type": "additive"}
    )


class TestEncoderDecoderWithoutAttention(EncoderDecoderMixinTests, unittest.TestCase):
    """Shared embeddings, but no tied output layer."""

    model_config = MappingProxyType({"cell_type": "gru", "share_embeddings": True, "attention_type": "none"})

    def test_capture_outputs_decorator(self):
        """The mixin asks for the attentions of every class that can have any; here they are refused."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = RecurrentForConditionalGeneration(config).to(common.torch_device)
        with pytest.raises(ValueError, match="attention_type is 'none'"):
            model(**inputs, output_attentions=True)
        assert len(model(**inputs, output_hidden_states=True).decoder_hidden_states) == config.num_hidden_layers + 1


class SpeechTester(RecurrentModelTester):
    """The same with features."""

    num_frames = 27  # which the convolutions make seven of, `seq_length`

    def get_config(self):
        config = super().get_config()
        config.num_mel_bins = 6
        return config

    def prepare_config_and_inputs_for_common(self):
        features = torch.randn(self.batch_size, self.num_frames, 6, device=common.torch_device)
        attention_mask = torch.ones(self.batch_size, self.num_frames, dtype=torch.long, device=common.torch_device)
        attention_mask[0, -5:] = 0
        return self.get_config(), {"input_features": features, "attention_mask": attention_mask}


class SpeechMixinTests(RecurrentMixinTests):
    """The mixin on the speech recogniser."""

    all_model_classes = (RecurrentForCTC,)
    base_model_name = "RecurrentSpeechEncoder"
    model_tester_class = SpeechTester
    test_resize_embeddings = False

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """The mixin's labels are all 0, which is the blank."""
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        labels = torch.tensor([[3, 4, 5]] * self.model_tester.batch_size, device=common.torch_device)
        return inputs | ({"labels": labels} if return_labels else {})

    def test_model_get_set_embeddings(self):
        """What stands for an embedding is the convolutions, as in transformers' own speech models."""
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        model = RecurrentForCTC(config)
        assert model.get_input_embeddings() is model.model.subsampling
        other = ConvolutionalSubsampling(config)
        model.set_input_embeddings(other)
        assert model.get_input_embeddings() is model.model.subsampling is other


def speech_class(name, **config):
    return type(name, (SpeechMixinTests, unittest.TestCase), {"model_config": config})


TestSpeechLstmStacked = speech_class("TestSpeechLstmStacked")
TestSpeechGruResidual = speech_class("TestSpeechGruResidual", cell_type="gru", block_style="residual", embedding_size=8)
TestSpeechBidirectional = speech_class("TestSpeechBidirectional", bidirectional=True)


def test_skips_decided_beforehand_are_explained():
    tests = {name: getattr(LanguageModelMixinTests, name) for name in dir(LanguageModelMixinTests) if name.startswith("test_")}
    methods = {name: test for name, test in tests.items() if callable(test)}
    assert len(methods) > 100
    reasons = {name: test.__unittest_skip_why__ for name, test in methods.items() if getattr(test, "__unittest_skip__", False)}
    assert {name: reason for name, reason in reasons.items() if not explained(reason)} == {}
