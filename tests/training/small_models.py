"""Small pretrained models of several kinds, made on the spot with random weights, each in a folder with its tokenizer."""

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from hflab.data.processors import build_tokenizer
from hflab.data.sources import Piece
from hflab.models import build_model
from hflab.recipe import ProcessorSection

CHARACTERS = "abcdefghijklmnopqrstuvwxyz \n"
LABELS = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}


def make_tokenizer():
    return build_tokenizer(ProcessorSection(tokenizer="character"), [Piece(0, CHARACTERS)])


def build(kind, tokenizer):
    tokens = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    bert = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    if kind == "gpt2":
        sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=tokenizer.eos_token_id, **tokens))
        model.generation_config.max_new_tokens = 8  # a pipeline's own default is more than the positions
        return model
    if kind == "bert":
        return BertForMaskedLM(BertConfig(**bert, **tokens))
    if kind == "classifier":
        return BertForSequenceClassification(BertConfig(**bert, **tokens, **LABELS))
    if kind == "bart":
        sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        return BartForConditionalGeneration(
            BartConfig(**sizes, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, decoder_start_token_id=0, **tokens)
        )
    if kind == "mini_transformer":
        return build_model(kind, "ForCausalLM", {**tokens, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2})
    return build_model("recurrent", "ForCausalLM", {**tokens, "cell_type": kind, "hidden_size": 16, "num_hidden_layers": 2})


def save(kind, folder):
    """Write the model of `kind` and its tokenizer into `folder` and return its path as text."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    build(kind, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
