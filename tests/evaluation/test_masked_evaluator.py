"""Masked tokens and pairs: the same figures from a model that scores the masked tokens alone and from one that scores all."""

import pytest
import torch
from transformers import BertConfig, BertForPreTraining

from hflab.data.masked_batches import IGNORED_LABEL, MaskedBatch
from hflab.evaluation.masked_evaluator import masked_logits
from hflab.models.mini_transformer import MiniTransformerConfig, MiniTransformerForPreTraining

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "type_vocab_size": 2}


def models():
    torch.manual_seed(0)
    return [MiniTransformerForPreTraining(MiniTransformerConfig(**SIZES)).eval(), BertForPreTraining(BertConfig(**SIZES)).eval()]


def batch(is_masked):
    ids = torch.arange(12).reshape(2, 6) + 3
    mask = torch.ones_like(ids)
    labels = torch.where(is_masked, ids, IGNORED_LABEL)
    return MaskedBatch(ids, mask, torch.tensor([[0, 0, 0, 1, 1, 1]] * 2), labels, torch.tensor([0, 1]), int(is_masked.sum()), 2)


@pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("every", [1, 3, 100])
def test_only_masked_tokens_are_scored(model, every):
    is_masked = torch.arange(1, 13).reshape(2, 6) % every == 0
    given = batch(is_masked)
    chosen, pairs = masked_logits(model, given)
    whole = model(input_ids=given.input_ids, token_type_ids=given.token_type_ids, attention_mask=given.attention_mask)
    assert chosen.shape == (int(is_masked.sum()), 20)
    torch.testing.assert_close(chosen, whole.prediction_logits[is_masked])
    torch.testing.assert_close(pairs, whole.seq_relationship_logits)
