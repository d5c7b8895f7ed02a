"""The effective memory of models whose memory is known, the rules of its sentences, and mistakes."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from hflab.errors import UserError
from hflab.laboratory.effective_memory import ContextOptions, effective_length, measure_context_use
from hflab.laboratory.effective_memory_report import context_verdict, plain_context_report, write_context_report
from hflab.models.recurrent import RecurrentConfig, RecurrentForCausalLM

VOCABULARY, EOS, LAG, CERTAIN = 12, 0, 4, 6.0


class KnownModel(PreTrainedModel):
    """A language model without anything learnt: subclasses say what their logits are."""

    config_class = PreTrainedConfig

    def __init__(self):
        super().__init__(PreTrainedConfig(vocab_size=VOCABULARY))
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def forward(self, input_ids, use_cache=False):
        assert (input_ids != EOS).all(), "a context reaches over the end of a document"
        return CausalLMOutput(logits=self.last_logits(input_ids)[:, None])


class Echo(KnownModel):
    """Expects the token LAG back to come again, and without it nothing in particular."""

    def last_logits(self, input_ids):
        if input_ids.shape[1] < LAG:
            return torch.zeros(len(input_ids), VOCABULARY)
        return CERTAIN * torch.nn.functional.one_hot(input_ids[:, -LAG], VOCABULARY).float()


class BagOfTokens(KnownModel):
    """Expects tokens as often as they were in the context, wherever they stood."""

    def last_logits(self, input_ids):
        counts = torch.nn.functional.one_hot(input_ids, VOCABULARY).float().sum(1)
        return torch.log((counts + 0.5) / (counts + 0.5).sum(1, keepdim=True))


class Confused(Echo):
    """Loses its way in contexts of more than 8 tokens."""

    def last_logits(self, input_ids):
        logits = super().last_logits(input_ids)
        return -logits if input_ids.shape[1] > 8 else logits


def echoing_text(length=3000, seed=0):
    """Tokens that repeat the one LAG before, with probability 0.9."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, VOCABULARY, length).astype(np.uint16)
    for place in range(LAG, length):
        if random.random() < 0.9:
            tokens[place] = tokens[place - LAG]
    return tokens


def test_a_model_that_heeds_one_token():
    found = measure_context_use(Echo(), echoing_text(), EOS, ContextOptions(context=32, targets=400))
    assert found.context_lengths == [1, 2, 4, 8, 16, 32]
    for use in (found.cut, found.shuffled):
        assert (use.tokens, use.low, use.high) == (LAG, LAG, LAG)
        assert use.losses[2:] == [found.loss] * 4
    assert found.cut.losses[:2] == pytest.approx([math.log(VOCABULARY)] * 2)
    assert found.tokens == LAG
    assert found.num_targets == 400


def test_the_loss_is_that_of_the_targets():
    found = measure_context_use(Echo(), np.array([1, 2, 3, 4] * 20), EOS, ContextOptions(context=8, targets=20))
    assert found.loss == pytest.approx(math.log(math.exp(CERTAIN) + VOCABULARY - 1) - CERTAIN, rel=1e-5)


def test_a_model_that_heeds_no_order():
    # a text whose tokens come from other few kinds in every stretch of 300
    random = np.random.default_rng(0)
    tokens = np.concatenate([random.choice(random.permutation(np.arange(1, VOCABULARY))[:3], 300) for _ in range(20)])
    found = measure_context_use(BagOfTokens(), tokens, EOS, ContextOptions(context=64, targets=300))
    assert (found.shuffled.tokens, found.shuffled.low, found.shuffled.high) == (1, 1, 1)
    assert found.shuffled.losses == pytest.approx([found.loss] * 7, rel=1e-6)
    assert found.cut.tokens >= 16


def test_contexts_lie_in_one_document():
    tokens = np.where(np.arange(2000) % 40 == 39, EOS, echoing_text(2000))
    found = measure_context_use(Echo(), tokens, EOS, ContextOptions(context=39, targets=10_000))
    assert found.num_targets == 50  # with 39 tokens before it, a document of 40 has one target
    with pytest.raises(UserError, match="The context is 40 tokens, but the longest document of the text has only 39"):
        measure_context_use(Echo(), tokens, EOS, ContextOptions(context=40))


def test_the_same_seed_gives_the_same():
    first, again, other = (measure_context_use(Echo(), echoing_text(), EOS, ContextOptions(context=16, targets=50, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_smallest_length_from_which_on_the_loss_is_near():
    lengths = [1, 2, 4, 8]
    assert effective_length(np.array([2.0, 1.0, 1.0, 1.0]), lengths) == 2
    assert effective_length(np.array([1.0, 1.02, 1.005, 1.0]), lengths) == 4  # a low loss before a higher one is chance
    assert effective_length(np.array([2.0, 2.0, 2.0, 1.0]), lengths) == 8
    assert effective_length(np.array([1.01, 1.0, 1.0, 1.0]), lengths) == 1


@pytest.mark.parametrize("cell_type", ["rnn", "lstm"])
def test_recurrent_models_and_their_mode(cell_type):
    torch.manual_seed(0)
    model = RecurrentForCausalLM(RecurrentConfig(vocab_size=VOCABULARY, hidden_size=8, cell_type=cell_type, output_dropout=0.5)).train()
    found = measure_context_use(model, echoing_text(), EOS, ContextOptions(context=20, targets=30))
    assert found.context_lengths == [1, 2, 4, 8, 16, 20]
    assert model.training
    # the shortest contexts by hand
    model.eval()
    assert found.cut.losses[0] == pytest.approx(math.log(VOCABULARY), abs=1.0)


def test_positions_limit_the_context():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    assert measure_context_use(model, echoing_text(), EOS, ContextOptions(targets=10)).context == 16
    with pytest.raises(UserError, match="has 16 positions; give at most 16"):
        measure_context_use(model, echoing_text(), EOS, ContextOptions(context=17))


@pytest.mark.parametrize(("options", "message"), [({"context": 1}, "at least 2"), ({"context": 0}, "at least 2"), ({"targets": 1}, "at least 2")])
def test_numbers_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        measure_context_use(Echo(), echoing_text(), EOS, ContextOptions(**options))


@pytest.mark.parametrize("tokens", [[], [EOS, EOS], [1]])
def test_no_text(tokens):
    with pytest.raises(UserError, match="longest document"):
        measure_context_use(Echo(), np.array(tokens, dtype=np.uint16), EOS, ContextOptions(context=4))


def test_report(tmp_path):
    found = measure_context_use(Echo(), echoing_text(), EOS, ContextOptions(context=16, targets=100))
    page = write_context_report(found, tmp_path / "new")
    text = page.read_text(encoding="utf-8")
    assert "From k = 4 on, reading the last k tokens alone costs at most 1% of the loss (95% interval 4 to 4)." in text
    assert "From k = 4 on, shuffling what lies before the last k tokens costs" in text
    saved = json.loads((tmp_path / "new/effective_memory.json").read_text(encoding="utf-8"))
    assert saved["cut"]["tokens"] == LAG
    assert saved["cut"]["losses"] == found.cut.losses
    assert f"{found.cut.losses[0]:.3f}" in text
    assert (tmp_path / "new/effective_memory.png").read_bytes().startswith(b"\x89PNG")
    assert "From k = 4 on" in plain_context_report(found)


def test_verdict_where_no_shorter_context_is_enough_and_where_the_whole_is_too_long():
    short = measure_context_use(Echo(), echoing_text(), EOS, ContextOptions(context=4, targets=100))
    assert "No k tried below 4 is enough" in context_verdict(short)[0]
    confused = measure_context_use(Confused(), echoing_text(), EOS, ContextOptions(context=16, targets=100))
    assert "The whole context of 16 tokens is worse than its last 4 alone" in context_verdict(confused)[-1]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    found = measure_context_use(Echo(), echoing_text(), EOS, ContextOptions(context=4, targets=10))
    with pytest.raises(UserError, match="choose another folder with --output"):
        write_context_report(found, tmp_path / "file")
