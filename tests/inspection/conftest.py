"""Tiny seeded models of every kind that can be inspected, in folders as `save_pretrained` leaves them."""

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from hflab.data.processors import build_tokenizer, with_masked_lm_tokens
from hflab.data.sources import Piece
from hflab.models import build_model
from hflab.recipe import ProcessorSection

TEXT = "I love machines. 我爱机器。 <script>&amp;$a$\n"
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 2}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2}
POSITIONS = 40


def mini(head):
    return lambda size: build_model("mini_transformer", head, {**SMALL, **SPECIAL, "vocab_size": size, "max_position_embeddings": POSITIONS})


def recurrent(head, **fields):
    return lambda size: build_model("recurrent", head, {**SMALL, **SPECIAL, "vocab_size": size, **fields})


def gpt2(size):
    return GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=3, n_head=2, n_positions=POSITIONS, bos_token_id=0, eos_token_id=0))


def bert(size):
    widths = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 4, "max_position_embeddings": POSITIONS}
    return BertForMaskedLM(BertConfig(vocab_size=size, num_hidden_layers=2, pad_token_id=2, **widths))


def bart(size):
    widths = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": POSITIONS}
    layers = {"encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 2}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=size, decoder_start_token_id=0, forced_eos_token_id=None, **SPECIAL, **widths, **layers)
    )


# name -> how to build the model from the size of its vocabulary
READ_ONE_TEXT = {
    "mini causal": mini("ForCausalLM"),
    "mini masked": mini("ForMaskedLM"),
    "mini pretraining": mini("ForPreTraining"),
    "mini classifier": mini("ForSequenceClassification"),
    "mini word classifier": mini("ForTokenClassification"),
    "mini base": mini("Model"),
    "gpt2": gpt2,
    "bert": bert,
}
READ_AND_WRITE = {
    "mini seq2seq": mini("ForConditionalGeneration"),
    "bart": bart,
    "multiplicative": recurrent("ForConditionalGeneration", bidirectional=True, attention_type="multiplicative"),
    "additive": recurrent("ForConditionalGeneration", attention_type="additive"),
}
WITHOUT_ATTENTION = {
    "recurrent classifier": recurrent("ForSequenceClassification"),
    "recurrent base": recurrent("Model"),
    "recurrent seq2seq": recurrent("ForConditionalGeneration", attention_type="none"),
}
TRACED = {"lstm": recurrent("ForCausalLM", cell_type="lstm"), "gru": recurrent("ForCausalLM", cell_type="gru", block_style="residual")}
MODELS = READ_ONE_TEXT | READ_AND_WRITE | WITHOUT_ATTENTION | TRACED


@pytest.fixture(params=list(READ_ONE_TEXT))
def one_text(request):
    return request.param


@pytest.fixture(params=list(READ_AND_WRITE))
def pair(request):
    return request.param


@pytest.fixture(params=list(WITHOUT_ATTENTION))
def without_attention(request):
    return request.param


@pytest.fixture(params=list(TRACED))
def traced(request):
    return request.param


@pytest.fixture(scope="session")
def character_tokenizer():
    return build_tokenizer(ProcessorSection(tokenizer="character"), [Piece(0, TEXT)])


@pytest.fixture(scope="session")
def byte_tokenizer():
    return build_tokenizer(ProcessorSection(tokenizer="byte_bpe", vocab_size=262), [Piece(0, "the theme there " * 9)])


@pytest.fixture(scope="session")
def framing_tokenizer():
    """One that frames a text as BERT's does: <cls> A <sep>."""
    return with_masked_lm_tokens(build_tokenizer(ProcessorSection(tokenizer="character"), [Piece(0, TEXT)]))


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory, character_tokenizer, framing_tokenizer):
    """Gives the folder of a model by its name in MODELS, with a tokenizer and weights so large that no two rows of attention are alike."""
    made = {}

    def save(name):
        if name not in made:
            tokenizer = framing_tokenizer if name in {"bert", "mini masked"} else character_tokenizer
            torch.manual_seed(0)
            model = MODELS[name](len(tokenizer)).eval()
            for parameter in model.requires_grad_(False).parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=2 * parameter.shape[1] ** -0.5)
            made[name] = tmp_path_factory.mktemp(name.replace(" ", "_"))
            model.save_pretrained(made[name])
            tokenizer.save_pretrained(made[name])
        return str(made[name])

    return save


@pytest.fixture(scope="session")
def reading_of(folder_of):
    """Gives what a model by its name in MODELS does with a text."""
    from hflab.inspection.loading import load_model
    from hflab.inspection.reading import read_text

    def read(name, text="我爱机器。", target=None):
        model, tokenizer = load_model(folder_of(name), trust_remote_code=False)
        return read_text(model, tokenizer, text, target)

    return read
