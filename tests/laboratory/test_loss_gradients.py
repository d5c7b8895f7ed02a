"""Gradients of losses with respect to inputs: beside finite differences and plain autograd, for recurrent models, Transformers and GPT-2."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from hflab.errors import UserError
from hflab.laboratory.loss_gradients import text_loss_gradients, token_loss_gradients
from hflab.models import build_model
from hflab.models.recurrent.cells_recurrent import CELLS

V, B, T = 13, 2, 8
SMALL = {"vocab_size": V, "hidden_size": 8, "num_hidden_layers": 2}


def _causal_models():
    for cell in CELLS:
        yield cell, lambda cell=cell: build_model("recurrent", "ForCausalLM", {**SMALL, "cell_type": cell, "output_dropout": 0.3})
    yield "residual", lambda: build_model("recurrent", "ForCausalLM", {**SMALL, "block_style": "residual"})
    yield "mini_transformer", lambda: build_model("mini_transformer", "ForCausalLM", {**SMALL, "num_attention_heads": 2})
    yield "gpt2", lambda: GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=16, n_embd=8, n_layer=2, n_head=2))


MODELS = list(_causal_models())


def rows(seed=0):
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, V, (B, T + 1)))
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.parametrize(("name", "make"), MODELS, ids=lambda value: value if isinstance(value, str) else "")
def test_gradients_equal_finite_differences(name, make):
    torch.manual_seed(0)
    model, (ids, labels) = make().double(), rows()
    found = token_loss_gradients(model, ids, labels, (5,))
    model.eval()
    table = model.get_input_embeddings()
    embeds = table(ids).detach()

    def loss(changed):
        handle = table.register_forward_hook(lambda *_: changed)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        handle.remove()
        return F.cross_entropy(logits[0, 5], labels[0, 5]).item()

    gradient = np.zeros(8)
    for unit in range(8):
        ends = []
        for sign in (1, -1):
            changed = embeds.clone()
            changed[0, 2, unit] += sign * 1e-5
            ends.append(loss(changed))
        gradient[unit] = (ends[0] - ends[1]) / 2e-5
    assert found[0, 0, 2] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    assert model.training is False


@pytest.mark.parametrize(("name", "make"), MODELS, ids=lambda value: value if isinstance(value, str) else "")
def test_later_inputs_have_no_gradient_and_the_mode_stays(name, make):
    model, (ids, labels) = make().train(), rows()
    found = token_loss_gradients(model, ids, labels, range(T))
    assert found.shape == (B, T, T)
    assert (found[:, np.triu_indices(T, 1)[0], np.triu_indices(T, 1)[1]] == 0).all()
    assert (found[:, np.tril_indices(T)[0], np.tril_indices(T)[1]] > 0).all()
    assert model.training
    assert found == pytest.approx(token_loss_gradients(model, ids, labels, range(T)))  # without dropout
    alone = [token_loss_gradients(model, ids[row : row + 1], labels[row : row + 1], range(T)) for row in range(B)]
    assert found == pytest.approx(np.concatenate(alone), rel=1e-4)


def test_a_model_that_reads_both_ways_is_refused():
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertLMHeadModel(BertConfig(vocab_size=V, is_decoder=False, **shape))
    with pytest.raises(UserError, match="reads both ways"):
        token_loss_gradients(model, *rows(), range(T))


@pytest.mark.parametrize("more", [{"bidirectional": False}, {"bidirectional": True}])
def test_a_classifier_has_a_gradient_for_every_word_and_none_for_padding(more):
    torch.manual_seed(0)
    model = build_model("recurrent", "ForSequenceClassification", {**SMALL, **more, "pad_token_id": 0}, label_names=["a", "b", "c"]).double()
    ids, classes = rows()[0], torch.tensor([0, 2])
    found = text_loss_gradients(model, ids, classes)
    assert found.shape == (B, 1, T)
    assert (found > 0).all()
    padded, mask = F.pad(ids, (0, 3)), F.pad(torch.ones_like(ids), (0, 3))
    embeds = model.get_input_embeddings()(padded).detach().requires_grad_()
    logits = model.eval()(inputs_embeds=embeds, attention_mask=mask).logits
    F.cross_entropy(logits, classes, reduction="sum").backward()
    norms = embeds.grad.norm(dim=-1).numpy()
    assert norms[:, T:] == pytest.approx(0.0)
    assert found[:, 0] == pytest.approx(norms[:, :T])
