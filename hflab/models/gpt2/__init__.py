"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): transformers' own classes, under the name of a family.

So recipes can train one of any size from scratch: `model: {family: gpt2, hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4}`. Fields
go by GPT-2's own names (`n_embd`) or by those that all models share (`hidden_size`). A saved folder needs no code but transformers'.
"""

from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2ForTokenClassification, GPT2LMHeadModel, GPT2Model, PreTrainedModel

CONFIG_CLASS = GPT2Config

HEADS: dict[str, type[PreTrainedModel]] = {
    "Model": GPT2Model,
    "ForCausalLM": GPT2LMHeadModel,
    "ForSequenceClassification": GPT2ForSequenceClassification,
    "ForTokenClassification": GPT2ForTokenClassification,
}

__all__ = ["CONFIG_CLASS", "HEADS"]
