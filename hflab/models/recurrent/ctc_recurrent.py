"""Speech recognition with connectionist temporal classification (CTC; Graves et al. 2006): log-mel features in, scores of characters out.

    model = RecurrentForCTC(RecurrentConfig(bidirectional=True, num_hidden_layers=3, vocab_size=30, pad_token_id=0))
    outputs = model(input_features=features, attention_mask=mask, labels=labels)    # loss, logits (B, T', V)

Convolutions with a stride make few frames of many, recurrent blocks read them, and a linear layer scores the characters of each. Nothing looks
ahead but the backward direction of a bidirectional model, so a one-directional model reads live audio chunk by chunk. Knows nothing about waveforms
(`feature_extraction_recurrent.py`), text and decoding.

B: batch, T: frames of features, M: mel bands, T': frames after the convolutions, E: embedding size, L: labels of the longest row, V: vocabulary.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import ModelOutput, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_recurrent import RecurrentConfig
from .modeling_recurrent import RecurrentPreTrainedModel, RecurrentStack, refuse_unknown

STRIDE = 2  # of each convolution
_ARGUMENTS = ("input_features", "attention_mask", "past_key_values", "use_cache", "num_context_frames", "labels")
_IGNORED = -100
_CERTAIN = 1e4  # logit of the blank at padding, finite in float16


@dataclass
class RecurrentCTCOutput(ModelOutput):
    """What a recogniser found.

    Attributes:
        loss: Nats per label, if there are labels.
        logits: Scores (B, T', V) of the tokens at each frame; at padding the blank is certain.
        past_key_values: The state after the last frame, of a one-directional model.
        hidden_states: On request the outputs of the convolutions and of every layer.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class ConvolutionalSubsampling(nn.Module):
    """Convolutions over time, each with stride 2, an activation and a norm: (B, T, M) to (B, T', E), T' = T / 2 ** layers, rounded up.

    A frame sees itself and the frames before it alone (zeros before the first, the mean of normalised features), so neither padding at the end of a
    row nor the future can reach it.
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        E, num_layers = cast(int, config.embedding_size), config.num_conv_layers
        widths = [config.num_mel_bins] + [E] * num_layers
        self.lookback = config.conv_kernel_size - 1
        self.convolutions = nn.ModuleList(nn.Conv1d(width, E, config.conv_kernel_size, STRIDE) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(E, eps=config.layer_norm_eps) for _ in range(num_layers))
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, features: Tensor) -> Tensor:
        """From (B, T, M) to (B, T', E)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            seen = F.pad(features.transpose(1, 2), (self.lookback, 0))
            features = norm(self.activation(convolution(seen)).transpose(1, 2))
        return features


class RecurrentSpeechEncoder(RecurrentStack):
    """Subsampling and blocks, without a head."""

    main_input_name = "input_features"
    _input_embed_layer = "subsampling"  # whose output gets a gradient for adapters under reentrant gradient checkpointing

    def __init__(self, config: RecurrentConfig) -> None:
        if config.num_conv_layers == 0 and config.embedding_size != config.num_mel_bins:
            raise ValueError(
                f"num_conv_layers is 0, so that the blocks read the {config.num_mel_bins} mel bands themselves, but embedding_size is "
                f"{config.embedding_size}; set it to {config.num_mel_bins}, or num_conv_layers to 1 or more."
            )
        super().__init__(config)
        self.subsampling = ConvolutionalSubsampling(config)
        self._add_blocks()
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        num_context_frames: int = 0,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Read a batch of features; the arguments are those of `RecurrentForCTC.forward`.

        Returns:
            `last_hidden_state` (B, T', H), twice as wide for bidirectional stacked blocks; `past_key_values`; on request `hidden_states`.
        """
        refuse_unknown(kwargs, _ARGUMENTS)
        cache = self._cache_to_fill(past_key_values, use_cache)
        lengths = self._lengths(input_features, attention_mask, num_context_frames)
        features = input_features.to(self.dtype)  # extractors make float32, whatever the model is in
        embeds = self.subsampling(_spec_augment(features, lengths, self.config) if self.training else features)
        num_dropped = num_context_frames // self.config.subsampling_factor
        embeds = embeds[:, num_dropped:]
        mask = None
        if lengths is not None:
            mask = _mask_of(self.config.num_output_frames(lengths) - num_dropped, embeds.shape[1])
        return self._read(embeds, mask=mask, resets=None, cache=cache)

    def _lengths(self, input_features: Tensor, attention_mask: Tensor | None, num_context_frames: int) -> Tensor | None:
        """Real frames (B,) of each row, or None where all are real. Raises `ValueError` for shapes and masks that do not fit."""
        if input_features.dim() != 3 or input_features.shape[2] != self.config.num_mel_bins or 0 in input_features.shape:
            raise ValueError(
                f"input_features has shape {tuple(input_features.shape)}; (B, T, {self.config.num_mel_bins}) is needed, at least one frame."
            )
        if num_context_frames % self.config.subsampling_factor or not 0 <= num_context_frames < input_features.shape[1]:
            raise ValueError(
                f"num_context_frames is {num_context_frames}; it must be a multiple of {self.config.subsampling_factor} below the frames given "
                f"({input_features.shape[1]})."
            )
        if attention_mask is None:
            return None
        if attention_mask.shape != input_features.shape[:2]:
            given, needed = tuple(attention_mask.shape), tuple(input_features.shape[:2])
            raise ValueError(f"attention_mask has shape {given}, but the features have {needed}; give 1 for every real frame and 0 for padding.")
        real = attention_mask.bool()
        if torch.compiler.is_compiling():
            return real.sum(dim=1)
        if (real[:, 1:] & ~real[:, :-1]).any():
            raise ValueError("attention_mask has real frames after padding; speech is padded on the right.")
        return None if real.all() else real.sum(dim=1)


class RecurrentForCTC(RecurrentPreTrainedModel):
    """A speech recogniser: `RecurrentSpeechEncoder` and a linear layer onto the characters.

    CTC's blank is `pad_token_id`, as for all speech models of transformers, and token 0 where that is None.
    """

    main_input_name = "input_features"

    def __init__(self, config: RecurrentConfig) -> None:
        if not 0 <= (config.pad_token_id or 0) < config.vocab_size:
            raise ValueError(f"pad_token_id is {config.pad_token_id}, but CTC's blank must be one of the {config.vocab_size} tokens of vocab_size.")
        super().__init__(config)
        self.model = RecurrentSpeechEncoder(self.config)
        both_ways = config.bidirectional and config.block_style == "stacked"
        self.lm_head = nn.Linear((2 if both_ways else 1) * config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        num_context_frames: int = 0,
        **kwargs: Any,
    ) -> RecurrentCTCOutput:
        """Read a batch of features and score the characters of every frame.

        Args:
            input_features: (B, T, M) of `RecurrentFeatureExtractor`.
            attention_mask: (B, T), 1 at real frames and 0 at padding, which is on the right; None: all frames are real.
            labels: (B, L) token numbers of the transcripts, -100 at padding.
            past_key_values: State to continue from, as an earlier call returned it; updated in place and returned. One-directional models only.
            use_cache: Whether to return the state; by default the config's `use_cache` when the model reads one way and is not training.
            num_context_frames: The first so many frames were read before and are given again, since the convolutions look back: a multiple of the
                config's `subsampling_factor`, at least its `lookback_frames` (or all there were) for the logits of the whole. They have no logits.
                The other frames of every call but the last must be such a multiple too.
            **kwargs: `num_items_in_batch`, the number of labels in all micro-batches of a step, which divides the summed loss instead of the number
                at hand; `output_hidden_states` and the like. Any other name is refused.

        Returns:
            `loss` in nats per label if there are labels, `logits` (B, T', V), `past_key_values`, on request `hidden_states`.

        Raises:
            ValueError: For inputs that do not fit together or that the config rules out.
            TypeError: For an argument that does not exist.
        """
        outputs = self.model(
            input_features=input_features,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            num_context_frames=num_context_frames,
            **kwargs,
        )
        logits = self.lm_head(outputs.last_hidden_state)
        num_dropped = num_context_frames // self.config.subsampling_factor
        if attention_mask is None:
            lengths = torch.full((len(logits),), logits.shape[1], device=logits.device)
        else:
            lengths = (self.config.num_output_frames(attention_mask.bool().sum(dim=1)) - num_dropped).clamp(min=0)
            blank = (torch.arange(self.config.vocab_size, device=logits.device) == self._blank) * _CERTAIN
            # whoever decodes a batch with its padding, as transformers' pipeline does, finds nothing there
            logits = torch.where(_mask_of(lengths, logits.shape[1])[:, :, None], logits, blank.to(logits.dtype))
        loss = None if labels is None else self._loss(logits, lengths, labels, kwargs.get("num_items_in_batch"))
        return RecurrentCTCOutput(loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states)

    @property
    def _blank(self) -> int:
        return self.config.pad_token_id or 0

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Refused: there is no embedding of tokens.

        Raises:
            NotImplementedError: Always; says what to do.
        """
        raise NotImplementedError(
            "A speech recogniser has no token embedding to resize; for another vocabulary load it with "
            "from_pretrained(folder, vocab_size=..., ignore_mismatched_sizes=True), which begins a new lm_head."
        )

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor) -> Tensor:
        """Frames of logits for so many frames of features, under the name that transformers' speech models have for it."""
        lengths: Tensor = self.config.num_output_frames(input_lengths)
        return lengths

    def _loss(self, logits: Tensor, lengths: Tensor, labels: Tensor, num_labels: Tensor | int | None) -> Tensor:
        """Nats of all alignments of the labels (B, L) with the frames, by the number of labels."""
        if not torch.compiler.is_compiling():
            self._check_labels(labels, len(logits))
        real = labels != _IGNORED
        nats = F.ctc_loss(
            logits.float().log_softmax(dim=-1).transpose(0, 1),
            labels[real],
            lengths,
            real.sum(dim=1),
            blank=self._blank,
            reduction="sum",
            zero_infinity=self.config.ctc_zero_infinity,
        )
        return nats / (real.sum().clamp(min=1) if num_labels is None else num_labels)

    def _check_labels(self, labels: Tensor, num_rows: int) -> None:
        """Raise `ValueError` for what torch's loss would read beyond its memory for, or count wrongly."""
        if labels.dim() != 2 or len(labels) != num_rows:
            raise ValueError(f"labels has shape {tuple(labels.shape)}; ({num_rows}, L) is needed, one row of tokens for each row of features.")
        wrong = (labels != _IGNORED) & ((labels < 0) | (labels >= self.config.vocab_size) | (labels == self._blank))
        if wrong.any():
            raise ValueError(
                f"labels holds {labels[wrong][0].item()}, but a transcript has tokens from 0 to {self.config.vocab_size - 1} without the blank, "
                f"{self._blank}; fill short rows up with {_IGNORED}."
            )


def _mask_of(lengths: Tensor, num_frames: int) -> Tensor:
    """(B, T) bool, True at each row's first so many frames."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def _spec_augment(features: Tensor, lengths: Tensor | None, config: RecurrentConfig) -> Tensor:
    """Set spans of time and bands of frequency to zero, which is the mean (Park et al. 2019, arXiv:1904.08779, section 2).

    As many spans of `mask_time_length` frames begin, anywhere in a row's real frames, as would hide `mask_time_prob` of it if they met nowhere;
    likewise bands. A share of a span is drawn as a whole one with that probability. Never so many that they could hide all of a row: one that is no
    longer than a span stays as it is.
    """
    B, T, M = features.shape
    for size, dimension, share, span in (
        (T, 1, config.mask_time_prob, config.mask_time_length),
        (M, 2, config.mask_feature_prob, config.mask_feature_length),
    ):
        if share == 0:
            continue
        reach = torch.full((B, 1), size, device=features.device)
        if dimension == 1 and lengths is not None:
            reach = lengths[:, None]
        most = int(share * size / span) + 1
        starts = torch.rand(B, most, device=features.device) * (reach - span + 1).clamp(min=1)
        wanted = share * reach / span + torch.rand(B, 1, device=features.device) - 1
        drawn = torch.arange(most, device=features.device) < wanted.clamp(max=(reach - 1) // span)
        places = torch.arange(size, device=features.device)
        first = starts.floor()[:, :, None]
        hidden = ((places >= first) & (places < first + span) & drawn[:, :, None]).any(dim=1)
        features = features.masked_fill(hidden[:, :, None] if dimension == 1 else hidden[:, None, :], 0.0)
    return features


RecurrentForCTC.register_for_auto_class("AutoModelForCTC")
