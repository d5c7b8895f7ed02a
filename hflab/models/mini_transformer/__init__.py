"""The mini-Transformer family: configuration, positions, attention, blocks and models.

The files here are copied flat into every saved model folder, so that it loads in a process without hflab; they import each other as siblings and
never hflab.
"""

from .configuration_mini_transformer import AUTO_MAP, MiniTransformerConfig
from .heads_classification_mini_transformer import MiniTransformerForSequenceClassification, MiniTransformerForTokenClassification
from .heads_masked_mini_transformer import MiniTransformerForMaskedLM, MiniTransformerForPreTraining
from .heads_seq2seq_mini_transformer import MiniTransformerForConditionalGeneration
from .modeling_mini_transformer import MiniTransformerForCausalLM, MiniTransformerModel, MiniTransformerPreTrainedModel

CONFIG_CLASS = MiniTransformerConfig

# A head is a class, a line here, and one in AUTO_MAP of `configuration_mini_transformer.py`.
HEADS: dict[str, type[MiniTransformerPreTrainedModel]] = {
    "Model": MiniTransformerModel,
    "ForCausalLM": MiniTransformerForCausalLM,
    "ForMaskedLM": MiniTransformerForMaskedLM,
    "ForPreTraining": MiniTransformerForPreTraining,
    "ForSequenceClassification": MiniTransformerForSequenceClassification,
    "ForTokenClassification": MiniTransformerForTokenClassification,
    "ForConditionalGeneration": MiniTransformerForConditionalGeneration,
}

__all__ = [
    "AUTO_MAP",
    "CONFIG_CLASS",
    "HEADS",
    "MiniTransformerConfig",
    "MiniTransformerForCausalLM",
    "MiniTransformerForConditionalGeneration",
    "MiniTransformerForMaskedLM",
    "MiniTransformerForPreTraining",
    "MiniTransformerForSequenceClassification",
    "MiniTransformerForTokenClassification",
    "MiniTransformerModel",
    "MiniTransformerPreTrainedModel",
]
