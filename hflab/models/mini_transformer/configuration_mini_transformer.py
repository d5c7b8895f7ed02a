"""Configuration of the mini-Transformer family: how wide, how deep, where it normalises, how it knows positions, and how it is regularised.

Knows nothing about how a model is computed (`modeling_mini_transformer.py`) or trained. Defaults are the architecture of Vaswani et al. 2017,
"Attention Is All You Need", arXiv:1706.03762, in a small size; the section is named at each field.
"""

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

NORM_POSITIONS = ("post", "pre")
POSITION_EMBEDDING_TYPES = ("sinusoidal", "learned", "rotary", "none")
# Feed-forwards with a gate (Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202) and the activation of their gate.
GATED_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}
PLAIN_ACTIVATIONS = tuple(name for name in ACT2FN if name not in ("prelu", "xielu"))  # those two have weights of their own
POOLINGS = ("token", "mean")
ACTIVATIONS = (*PLAIN_ACTIVATIONS, *GATED_ACTIVATIONS)

# Every Auto class that can open a saved folder, with the file and class that a process without hflab loads for it.
AUTO_MAP = {
    "AutoConfig": "configuration_mini_transformer.MiniTransformerConfig",
    "AutoModel": "modeling_mini_transformer.MiniTransformerModel",
    "AutoModelForCausalLM": "modeling_mini_transformer.MiniTransformerForCausalLM",
    "AutoModelForMaskedLM": "heads_masked_mini_transformer.MiniTransformerForMaskedLM",
    "AutoModelForPreTraining": "heads_masked_mini_transformer.MiniTransformerForPreTraining",
    "AutoModelForSequenceClassification": "heads_classification_mini_transformer.MiniTransformerForSequenceClassification",
    "AutoModelForTokenClassification": "heads_classification_mini_transformer.MiniTransformerForTokenClassification",
    "AutoModelForSeq2SeqLM": "heads_seq2seq_mini_transformer.MiniTransformerForConditionalGeneration",
}

_POSITIVE_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_decoder_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_PROBABILITIES = ("embedding_dropout", "hidden_dropout", "attention_dropout", "activation_dropout", "classifier_dropout")
_POSITIVE_NUMBERS = ("rotary_base", "initializer_range", "layer_norm_eps")


@strict
class MiniTransformerConfig(PreTrainedConfig):
    r"""Configuration of `MiniTransformerModel` and its heads.

    Args:
        vocab_size: Number of token types, at least 1.
        hidden_size: Width of the hidden states, a multiple of `num_attention_heads`.
        num_hidden_layers: Number of blocks; of the encoder where there is an encoder and a decoder.
        num_decoder_layers: Number of blocks of the decoder beside an encoder; None makes it `num_hidden_layers`.
        num_attention_heads: Number of heads of every attention (section 3.2.2).
        intermediate_size: Width of the feed-forward (section 3.3); None makes it four times `hidden_size`.
        hidden_act: Activation of the feed-forward, one of `ACTIVATIONS`. "swiglu" and "geglu" are feed-forwards with a gate, which has a third
            matrix: down(activation(gate(x)) * up(x)).
        norm_position: "post" is norm(x + sublayer(x)) (section 3.1), "pre" is x + sublayer(norm(x)) with a norm after the last block (Xiong et al.
            2020, arXiv:2002.04745).
        embedding_norm: Whether the sum of the embeddings is normalised, as in BERT and BART.
        position_embedding_type: "sinusoidal" is added to the embeddings (section 3.5), "learned" too, from a table of
            `max_position_embeddings` rows; "rotary" turns queries and keys (Su et al. 2021, arXiv:2104.09864); "none" leaves order to the causal
            mask alone (Haviv et al. 2022, arXiv:2203.16634).
        max_position_embeddings: Longest row. Only learned positions cannot go beyond it.
        rotary_base: Base of the wavelengths of rotary positions, above 0.
        type_vocab_size: Number of segments that tokens can belong to (BERT: 2), each with an embedding; 0 for none.
        scale_embedding: Whether token embeddings are multiplied by the square root of `hidden_size` (section 3.4).
        attention_bias: Whether the projections of attention have biases.
        mlp_bias: Whether the linear layers of the feed-forward have biases.
        embedding_dropout: Probability, in [0, 1), of dropping an entry of the sum of the embeddings (section 5.4).
        hidden_dropout: Probability, in [0, 1), of dropping an entry of the output of each sublayer (section 5.4).
        attention_dropout: Probability, in [0, 1), of dropping an attention weight.
        activation_dropout: Probability, in [0, 1), of dropping an entry inside the feed-forward.
        classifier_dropout: Probability, in [0, 1), of dropping an entry of what a classifier reads; None makes it `hidden_dropout`.
        pooling: What a head that classifies whole rows reads: "token", the first token or, of a row read from left to right, the last, or "mean" over
            all real tokens. See `pooling_mini_transformer.py`.
        initializer_range: Standard deviation, above 0, of weights at the start. Embeddings that are scaled start with hidden_size ** -0.5, so that
            they reach the scale of the positions; layers that write into a pre-norm stream start smaller by the square root of their number.
        layer_norm_eps: Added to the variance in the norms, above 0.
        is_decoder: Whether a token sees only those before it and itself. Set by the heads that generate.
        is_encoder_decoder: Whether there is an encoder and a decoder. Set by `MiniTransformerForConditionalGeneration`.
        tie_word_embeddings: Whether a language-model head shares the embedding's weight (section 3.4). Where embeddings are scaled too, a model
            starts by predicting the very token that it reads, at a loss of up to about sqrt(hidden_size) nats, and has to unlearn that first;
            where source and target have different symbols, False spares it that.
        use_cache: Whether a model that reads from left to right hands out its keys and values as `past_key_values` when it is not training.
        pad_token_id: Token that fills up short rows, or None.
        bos_token_id: Token that opens a text, or None.
        eos_token_id: Token or tokens that end a text, or None.
        decoder_start_token_id: Token that the decoder beside an encoder reads first; None makes it `bos_token_id`.

    Example:
        >>> MiniTransformerConfig(hidden_size=64, norm_position="pre", position_embedding_type="rotary").intermediate_size
        256
    """

    model_type = "mini_transformer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 256
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_decoder_layers: int | None = None
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    hidden_act: str = "relu"
    norm_position: str = "post"
    embedding_norm: bool = False
    position_embedding_type: str = "sinusoidal"
    max_position_embeddings: int = 512
    rotary_base: float | int = 10000.0
    type_vocab_size: int = 0
    scale_embedding: bool = True
    attention_bias: bool = True
    mlp_bias: bool = True
    embedding_dropout: float | int = 0.1
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    classifier_dropout: float | int | None = None
    pooling: str = "token"
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-5
    is_decoder: bool = False
    is_encoder_decoder: bool = False
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the sizes that follow from others, and name the code that a saved folder carries."""
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_hidden_layers
        if self.classifier_dropout is None:
            self.classifier_dropout = self.hidden_dropout
        self.auto_map = AUTO_MAP | kwargs.pop("auto_map", {})
        super().__post_init__(**kwargs)

    def get_text_config(self, decoder: Any = None, encoder: Any = None) -> Self:
        """The config that caches are built from: for the decoder beside an encoder it counts the decoder's layers."""
        if not (decoder and self.is_encoder_decoder and not encoder) or self.num_decoder_layers == self.num_hidden_layers:
            return self
        return type(self).from_dict(self.to_dict() | {"num_hidden_layers": self.num_decoder_layers})

    def validate_architecture(self) -> None:
        """Refuse what cannot be built. Runs at the end of construction.

        Raises:
            ValueError: Says what was given, what is allowed and what to do.
        """
        _check_choice("hidden_act", self.hidden_act, ACTIVATIONS)
        _check_choice("norm_position", self.norm_position, NORM_POSITIONS)
        _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("position_embedding_type", self.position_embedding_type, POSITION_EMBEDDING_TYPES)
        for name in _POSITIVE_INTEGERS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1; set it to a positive integer.")
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a probability in [0, 1); set it to 0 for no dropout.")
        for name in _POSITIVE_NUMBERS:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above 0; leave it out for its default.")
        if self.type_vocab_size < 0:
            raise ValueError(f"type_vocab_size is {self.type_vocab_size}, but must be at least 0; set it to 0 for no segments.")
        if self.is_decoder and self.is_encoder_decoder:
            raise ValueError("is_decoder and is_encoder_decoder are both True, but a model is one of the two; leave both out: the heads set them.")
        self._check_widths()

    def _check_widths(self) -> None:
        heads, width = self.num_attention_heads, self.hidden_size
        if width % heads:
            raise ValueError(f"hidden_size is {width}, which {heads} heads cannot share equally; make hidden_size a multiple of num_attention_heads.")
        if self.position_embedding_type == "sinusoidal" and width % 2:
            raise ValueError(
                f"hidden_size is {width}, but sinusoidal positions come in pairs; make it even or choose position_embedding_type='learned'."
            )
        if self.position_embedding_type == "rotary" and (width // heads) % 2:
            raise ValueError(
                f"Each of {heads} heads is {width // heads} wide, but rotary positions turn pairs; make hidden_size / num_attention_heads even or "
                "choose position_embedding_type='learned'."
            )


def _check_choice(field: str, given: str, choices: Iterable[str]) -> None:
    """Raise a ValueError that lists `choices` and names the nearest, unless `given` is one of them."""
    allowed = list(choices)
    if given in allowed:
        return
    close = difflib.get_close_matches(given, allowed, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{field} is {given!r}, which does not exist; choose from: {', '.join(allowed)}.{hint}")


MiniTransformerConfig.register_for_auto_class()
