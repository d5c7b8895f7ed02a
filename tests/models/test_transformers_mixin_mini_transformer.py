"""transformers' own ModelTesterMixin, run on every architecture and head of the mini-Transformer.

The mixin is no part of the installed package; the first lines of `test_transformers_mixin_recurrent.py` say how to get it and what is not in it.
`test_generation_mini_transformer.py` covers the ground of the generation mixin.
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
from hflab.models.mini_transformer import HEADS, MiniTransformerConfig

TESTS_FOLDER = os.environ.get("HFLAB_TRANSFORMERS_TESTS")
if TESTS_FOLDER is None:
    pytest.skip(
        "transformers' own tests are not at hand; HFLAB_TRANSFORMERS_TESTS=<transformers-x.y.z/tests> pytest tests/models runs them "
        "(the first lines of test_transformers_mixin_recurrent.py say where they come from)",
        allow_module_level=True,
    )

# Why each skip is right: what the reason of the skip holds, and the explanation. A skip for any other reason fails.
EXPLAINED_SKIPS = {
    r"RoPE|rope|base_model_class": "rotary positions are the plain ones, computed without the scaled tables that these tests look for",
    r"does not have position embeddings": "transformers' own models cannot resize positions either, but one",
    r"composite|subconfigs|does not support SDPA": "one config without others inside; the tests for such models run",
    r"sparse experts|router_logits|grouped_mm": "no mixture of experts",
    r"sliding window": "attention is over whole rows",
    r"support output_attentions": "the mixin looks for the name in the signature; test_modeling_mini_transformer.py compares attentions",
    r"propagate hidden states": "an encoder-decoder names them encoder_hidden_states and decoder_hidden_states; the other heads run the test",
    r"sequence-to-sequence|decoder-only": "the classes under test have no such head; those of the other kinds run the test",
    r"_keep_in_fp32_modules": "no module has to stay in float32",
    r"TP plan": "small models are not split over devices; large ones shard by FSDP",
    r"No conversion found": "no older checkpoint format exists to convert from",
    r"features": "no image, audio or video goes in",
    r"requires (an? )?(multiple )?accelerators?|requires CUDA|requires GPU|requires a Nvidia": "needs a GPU",
    r"requires (Flash Attention|Flex|flex|MPS|bitsandbytes)": "needs another device or another package",
    r"requires (the )?kernels|requires deepspeed|deepspeed": "needs a package that this family does not use",
    r"Not a prioritized model": "transformers 5.17 takes files without a copyright year for old ones; 5.23 runs the test",
    r"test is slow": "transformers runs it only with RUN_SLOW=1",
}


def explained(reason: str) -> bool:
    return any(re.search(pattern, reason) for pattern in EXPLAINED_SKIPS)


common = importlib.import_module("transformers_own_tests.test_modeling_common")  # the package that conftest.py makes
register_auto_classes()

ARCHITECTURES = {
    "Vaswani": {},
    "Bert": {"hidden_act": "gelu", "position_embedding_type": "learned", "embedding_norm": True, "scale_embedding": False, "type_vocab_size": 2},
    "Gpt2": {"hidden_act": "gelu_new", "position_embedding_type": "learned", "norm_position": "pre", "scale_embedding": False},
    "Llama": {"hidden_act": "swiglu", "position_embedding_type": "rotary", "norm_position": "pre", "mlp_bias": False, "tie_word_embeddings": False},
}

# transformers' tables of class names by which the mixin decides which model gets which labels, for each head
LABEL_TABLES = {
    "Model": "MODEL_MAPPING_NAMES",
    "ForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "ForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "ForPreTraining": "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
    "ForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "ForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "ForConditionalGeneration": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
}


class MiniTransformerModelTester:
    """The small configs and inputs that the mixin asks for."""

    batch_size = 3
    seq_length = 7
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 4
    is_training = True

    def __init__(self, parent, **config):
        self.parent = parent
        self.config = config

    def get_config(self):
        return MiniTransformerConfig(
            vocab_size=99,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **self.config,
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        input_ids = torch.randint(3, 99, (self.batch_size, self.seq_length), device=common.torch_device)
        attention_mask = torch.ones_like(input_ids)
        attention_mask[0, -2:] = 0
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if config.is_encoder_decoder:
            inputs |= {"decoder_input_ids": input_ids.clone(), "decoder_attention_mask": attention_mask.clone()}
        return config, inputs


class MiniTransformerMixinTests(common.ModelTesterMixin):
    """What the mixin has to know of this family."""

    test_can_init_all_missing_weights_before_2023 = True  # our files carry no copyright year, which the mixin takes for old
    model_config = MappingProxyType({})

    def setUp(self):
        self.model_tester = MiniTransformerModelTester(self, **self.model_config)
        for head, table_name in LABEL_TABLES.items():
            table = unittest.mock.patch.dict(getattr(common, table_name), {"mini_transformer": HEADS[head].__name__})
            table.start()
            self.addCleanup(table.stop)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is HEADS["ForPreTraining"]:
            inputs["labels"] = torch.zeros_like(inputs["input_ids"])
            inputs["next_sentence_label"] = torch.zeros_like(inputs["input_ids"][:, 0])
        return inputs

    def skipTest(self, reason):  # noqa: N802  unittest's name
        assert explained(reason), f"unexplained skip: {reason}"
        super().skipTest(reason)


class EncoderMixinTests(MiniTransformerMixinTests):
    all_model_classes = tuple(HEADS[head] for head in HEADS if head not in ("ForCausalLM", "ForConditionalGeneration"))


class DecoderMixinTests(MiniTransformerMixinTests, common.GenerationTesterMixin):
    all_model_classes = tuple(HEADS[head] for head in ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification"))


class EncoderDecoderMixinTests(MiniTransformerMixinTests, common.GenerationTesterMixin):
    all_model_classes = (HEADS["ForConditionalGeneration"],)
    is_encoder_decoder = True


KINDS = {
    "Encoder": (EncoderMixinTests, {}),
    "Decoder": (DecoderMixinTests, {"is_decoder": True}),
    "EncoderDecoder": (EncoderDecoderMixinTests, {"is_encoder_decoder": True}),
}
QUICK = {("Bert", "Encoder"), ("Gpt2", "Decoder"), ("Vaswani", "EncoderDecoder")}


def mixin_class(architecture, kind):
    name, (base, flags) = f"Test{architecture}{kind}", KINDS[kind]
    config = ARCHITECTURES[architecture] | flags | ({"type_vocab_size": 0} if kind == "EncoderDecoder" else {})
    tests = type(name, (base, unittest.TestCase), {"model_config": config})
    return name, tests if (architecture, kind) in QUICK else pytest.mark.slow(tests)


globals().update(mixin_class(architecture, kind) for architecture in ARCHITECTURES for kind in KINDS)


def test_skips_decided_beforehand_are_explained():
    tests = {name: getattr(EncoderDecoderMixinTests, name) for name in dir(EncoderDecoderMixinTests) if name.startswith("test_")}
    methods = {name: test for name, test in tests.items() if callable(test)}
    assert len(methods) > 100
    reasons = {name: test.__unittest_skip_why__ for name, test in methods.items() if getattr(test, "__unittest_skip__", False)}
    assert {name: reason for name, reason in reasons.items() if not explained(reason)} == {}
