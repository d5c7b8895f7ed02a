"""Configuration of the recurrent family: which cell, how wide, how deep, how regularised and how initialised.

Knows nothing about how a model is computed (`modeling_recurrent.py`) or trained. Dropout probabilities are those of AWD-LSTM: Merity, Keskar
and Socher 2017, "Regularizing and Optimizing LSTM Language Models", arXiv:1708.02182; the section is named at each field.
"""

import copy
import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .cells_recurrent import CELLS

if TYPE_CHECKING:
    # Never run. A folder is saved with the files that its config's and its model's files import, found by their text: so each folder, whatever
    # head was saved, carries the code of every class in AUTO_MAP.
    from .heads_recurrent import HEADS  # noqa: F401

BLOCK_STYLES = ("stacked", "residual")
RECURRENT_INITIALIZERS = ("orthogonal", "uniform", "normal")
POOLINGS = ("last", "mean", "max")
ATTENTION_TYPES = ("multiplicative", "additive", "none")
ACTIVATIONS = tuple(name for name in ACT2FN if name not in ("prelu", "xielu"))  # those two have weights of their own

# Every Auto class that can open a saved folder, with the file and class that a process without hflab loads for it.
AUTO_MAP = {
    "AutoConfig": "configuration_recurrent.RecurrentConfig",
    "AutoModel": "modeling_recurrent.RecurrentModel",
    "AutoModelForCausalLM": "modeling_recurrent.RecurrentForCausalLM",
    "AutoModelForSequenceClassification": "classification_recurrent.RecurrentForSequenceClassification",
    "AutoModelForTokenClassification": "classification_recurrent.RecurrentForTokenClassification",
    "AutoModelForSeq2SeqLM": "seq2seq_recurrent.RecurrentForConditionalGeneration",
    "AutoModelForCTC": "ctc_recurrent.RecurrentForCTC",
}

_POSITIVE_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "embedding_size",
    "intermediate_size",
    "num_decoder_layers",
    "num_mel_bins",
    "hop_length",
    "conv_kernel_size",
    "mask_time_length",
    "mask_feature_length",
)
_PROBABILITIES = (
    "embedding_dropout",
    "input_dropout",
    "recurrent_dropout",
    "output_dropout",
    "classifier_dropout",
    "mask_time_prob",
    "mask_feature_prob",
)
_POSITIVE_NUMBERS = ("initializer_range", "layer_norm_eps")


@strict
class RecurrentConfig(PreTrainedConfig):
    r"""Configuration of `RecurrentModel` and its heads. One config serves every head; fields that belong to one kind of head say so.

    Args:
        vocab_size: Number of token types, at least 1.
        cell_type: Name of the cell, a key of `CELLS` in `cells_recurrent.py`.
        hidden_size: Width of the hidden state of one direction.
        num_hidden_layers: Number of blocks, each holding one recurrence (two when bidirectional).
        embedding_size: Width of the token embedding (Merity et al., section 4.5); None makes it `hidden_size`.
        bidirectional: Whether every block also reads its row from right to left. Refused by the causal language model; in an encoder-decoder it
            is about the encoder.
        block_style: "stacked" is the architecture of `torch.nn.LSTM`, `GRU` and `RNN`: each layer reads the outputs of the one below. "residual"
            is pre-norm: x + recurrence(norm(x)), then x + feed_forward(norm(x)), and a norm after the last block.
        intermediate_size: Width of the feed-forward of residual blocks; None makes it twice `hidden_size`. Stacked blocks have none.
        hidden_act: Activation of that feed-forward, one of `ACTIVATIONS`.
        embedding_dropout: Probability, in [0, 1), of dropping a token type from the embedding for a whole batch (section 4.3). It needs
            `input_ids`: embeddings handed in ready-made belong to no token type.
        input_dropout: Probability, in [0, 1), of dropping a feature at the input of each recurrence and feed-forward, the same feature at
            every time step of a row (locked or variational dropout, section 4.2).
        recurrent_dropout: Probability, in [0, 1), of dropping an entry of the recurrent weight, the same entries throughout a sequence
            (DropConnect, section 2).
        output_dropout: Probability, in [0, 1), of dropping a feature of the last block's output, locked as above.
        recurrent_initializer: Recurrent weight of each gate at the start: "orthogonal", "uniform" within 1 / sqrt(hidden_size) as in torch,
            or "normal" with standard deviation `initializer_range`. All other linear layers start uniform within 1 / sqrt(inputs).
        forget_bias: Bias of the LSTM's forget gate at the start (Jozefowicz, Zaremba and Sutskever 2015, section 2.2); other cells have none.
        initializer_range: Standard deviation, above 0, of the embedding in front of residual blocks and, with
            `recurrent_initializer="normal"`, of the recurrent weights. In front of stacked blocks, which do not normalise what they read, the
            embedding starts with standard deviation 1, or embedding_size ** -0.25 if it is tied to a head.
        layer_norm_eps: Added to the variance in the norms of residual blocks, above 0.
        tie_word_embeddings: Whether a language-model head shares the embedding's weight (section 4.4). Where `embedding_size` differs from
            `hidden_size`, a linear layer before the head leads from one width to the other.
        classifier_dropout: Probability, in [0, 1), of dropping a feature that a classifier reads.
        pooling: What the classifier of a whole row reads: "last", the outputs where each direction has read the whole row, "mean" or "max" over
            its real tokens.
        attention_type: How the decoder of an encoder-decoder scores the encoder's outputs: "multiplicative", "additive" or "none", where the
            encoder's last state is all that the decoder gets; see `attention_recurrent.py` and `seq2seq_recurrent.py`.
        num_decoder_layers: Number of blocks of an encoder-decoder's decoder; None makes it `num_hidden_layers`, which is the encoder's.
        share_embeddings: Whether encoder and decoder share one embedding. With `tie_word_embeddings` too it is the output layer's as well.
        num_mel_bins: Width of a frame of speech features, which a speech recogniser reads instead of tokens.
        hop_length: Samples of audio from one such frame to the next; it gives the times of what was recognised.
        num_conv_layers: Number of convolutions in front of a speech recogniser's blocks, each of which halves the number of frames; 0 to 4, and
            with 0 the blocks read the features themselves.
        conv_kernel_size: Frames that each of them sees: its own and those before it.
        mask_time_prob: Share, in [0, 1), of the frames of features that are hidden in training (SpecAugment), in spans of `mask_time_length`.
        mask_time_length: Frames of a span.
        mask_feature_prob: Share, in [0, 1), of the mel bands that are hidden in training, in spans of `mask_feature_length`.
        mask_feature_length: Bands of a span.
        ctc_zero_infinity: Whether a row whose transcript has too many characters for its frames adds nothing to the loss, instead of infinity.
        use_cache: Whether a one-directional model hands out its state as `past_key_values` when it is not training.
        pad_token_id: Token that fills up short rows, or None.
        bos_token_id: Token that opens a text, or None.
        eos_token_id: Token or tokens that end a text, or None.
        decoder_start_token_id: Token that an encoder-decoder's decoder reads first; None makes it `bos_token_id`.

    Example:
        >>> RecurrentConfig(cell_type="gru", hidden_size=64, num_hidden_layers=2).layer_types
        ['recurrent', 'recurrent']
    """

    model_type = "recurrent"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "encoder_last_hidden_state"]  # of what the Trainer gathers

    vocab_size: int = 256
    cell_type: str = "lstm"
    hidden_size: int = 256
    num_hidden_layers: int = 1
    embedding_size: int | None = None
    bidirectional: bool = False
    block_style: str = "stacked"
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    embedding_dropout: float | int = 0.0
    input_dropout: float | int = 0.0
    recurrent_dropout: float | int = 0.0
    output_dropout: float | int = 0.0
    recurrent_initializer: str = "orthogonal"
    forget_bias: float | int = 1.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-5
    tie_word_embeddings: bool = False
    classifier_dropout: float | int = 0.0
    pooling: str = "last"
    attention_type: str = "multiplicative"
    num_decoder_layers: int | None = None
    share_embeddings: bool = False
    num_mel_bins: int = 80
    hop_length: int = 160
    num_conv_layers: int = 2
    conv_kernel_size: int = 5
    mask_time_prob: float | int = 0.0
    mask_time_length: int = 10
    mask_feature_prob: float | int = 0.0
    mask_feature_length: int = 10
    ctc_zero_infinity: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the sizes that follow from others, and name the code that a saved folder carries."""
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        if self.intermediate_size is None and self.block_style == "residual":
            self.intermediate_size = 2 * self.hidden_size
        self.auto_map = AUTO_MAP | kwargs.pop("auto_map", {})
        super().__post_init__(**kwargs)

    @property
    def layer_types(self) -> list[str]:
        """The kind of cache layer of each block; `cache_recurrent.py` registers it with transformers."""
        return ["recurrent"] * self.num_hidden_layers

    @property
    def subsampling_factor(self) -> int:
        """Frames of features for each frame that a speech recogniser's blocks read."""
        return int(2**self.num_conv_layers)

    @property
    def lookback_frames(self) -> int:
        """Frames of features before a frame on which its outputs depend through the convolutions, rounded up to `subsampling_factor`."""
        reach = (self.conv_kernel_size - 1) * (self.subsampling_factor - 1)
        return -(-reach // self.subsampling_factor) * self.subsampling_factor

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples of audio for each frame of a speech recogniser's logits, by which transformers' pipeline tells times."""
        return self.hop_length * self.subsampling_factor

    def num_output_frames(self, num_frames: Any) -> Any:
        """Frames that a speech recogniser makes of so many frames of features, a number or a tensor."""
        return -(-num_frames // self.subsampling_factor)

    def encoder_config(self) -> "RecurrentConfig":
        """The config of an encoder-decoder's encoder, alone."""
        config = copy.deepcopy(self)
        config.is_encoder_decoder = False
        config.tie_word_embeddings = self.tie_word_embeddings and self.share_embeddings
        return config

    def decoder_config(self) -> "RecurrentConfig":
        """The config of an encoder-decoder's decoder, alone."""
        config = copy.deepcopy(self)
        config.is_encoder_decoder = config.bidirectional = False
        config.num_hidden_layers = self.num_decoder_layers or self.num_hidden_layers
        return config

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "RecurrentConfig":
        """The part of an encoder-decoder's config that is asked for; transformers builds caches by the decoder's. Else this config."""
        if not self.is_encoder_decoder or bool(decoder) == bool(encoder):
            return self
        return self.decoder_config() if decoder else self.encoder_config()

    def validate_layer_type(self) -> None:
        """Nothing to check, since `layer_types` is derived; transformers' own list does not know this kind."""

    def validate_architecture(self) -> None:
        """Refuse what cannot be built. Runs at the end of construction.

        Raises:
            ValueError: Says what was given, what is allowed and what to do.
        """
        _check_choice("cell_type", self.cell_type, CELLS)
        _check_choice("block_style", self.block_style, BLOCK_STYLES)
        _check_choice("recurrent_initializer", self.recurrent_initializer, RECURRENT_INITIALIZERS)
        _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("attention_type", self.attention_type, ATTENTION_TYPES)
        _check_choice("hidden_act", self.hidden_act, ACTIVATIONS)
        for name in _POSITIVE_INTEGERS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1; set it to a positive integer.")
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a probability in [0, 1); set it to 0 for none.")
        for name in _POSITIVE_NUMBERS:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above 0; leave it out for its default.")
        if not 0 <= self.num_conv_layers <= 4:
            raise ValueError(f"num_conv_layers is {self.num_conv_layers}, but must be from 0 to 4; each convolution halves the frames of speech.")
        if self.mask_feature_prob > 0 and self.mask_feature_length >= self.num_mel_bins:
            raise ValueError(
                f"mask_feature_length is {self.mask_feature_length}, but must be below num_mel_bins ({self.num_mel_bins}), or no span would leave "
                "a band; make it smaller or mask_feature_prob 0."
            )
        if self.intermediate_size is not None and self.block_style == "stacked":
            raise ValueError(
                f"intermediate_size is {self.intermediate_size}, but stacked blocks have no feed-forward; leave it out or set block_style='residual'."
            )


def _check_choice(field: str, given: str, choices: Iterable[str]) -> None:
    """Raise a ValueError that lists `choices` and names the nearest, unless `given` is one of them."""
    allowed = list(choices)
    if given in allowed:
        return
    close = difflib.get_close_matches(given, allowed, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{field} is {given!r}, which does not exist; choose from: {', '.join(allowed)}.{hint}")


RecurrentConfig.register_for_auto_class()
