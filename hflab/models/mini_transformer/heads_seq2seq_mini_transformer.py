"""The encoder-decoder: one text in, another out. Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.

    model = MiniTransformerForConditionalGeneration(MiniTransformerConfig(vocab_size=64, bos_token_id=1, eos_token_id=2, pad_token_id=0))
    loss = model(input_ids=source, labels=target).loss             # the decoder reads the target, moved right by one
    target = model.generate(source)

B: batch, S: time of the source, T: time of the target, H: hidden size, V: vocabulary.
"""

from typing import Any, cast

from torch import LongTensor, Tensor, nn
from transformers import Cache, EncoderDecoderCache, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions, Seq2SeqLMOutput
from transformers.utils.generic import ModelOutput, can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .arguments_mini_transformer import embeddings_of, refuse_unknown, with_flag
from .attention_mini_transformer import CrossAttention, SelfAttention
from .blocks_mini_transformer import MiniTransformerBlock
from .configuration_mini_transformer import MiniTransformerConfig
from .modeling_mini_transformer import MiniTransformerModel, MiniTransformerPreTrainedModel, MiniTransformerStack
from .positions_mini_transformer import positions_of_tokens


class MiniTransformerDecoder(MiniTransformerStack):
    """The stack beside an encoder, which it looks at. It reads embeddings only: tokens are embedded by the encoder's table."""

    _can_record_outputs = {  # noqa: RUF012  transformers declares it as a plain attribute
        "hidden_states": MiniTransformerBlock,
        "attentions": OutputRecorder(SelfAttention, index=1),
        "cross_attentions": OutputRecorder(CrossAttention, index=1),
    }

    def __init__(self, config: MiniTransformerConfig) -> None:
        super().__init__(config, num_layers=cast(int, config.num_decoder_layers), is_causal=True, has_cross_attention=True)
        self.post_init()

    @capture_outputs
    def forward(
        self,
        inputs_embeds: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_ids: LongTensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Read token embeddings (B, T, H) beside `encoder_hidden_states` (B, S, H) with their mask (B, S); the rest as in `MiniTransformerModel`."""
        refuse_unknown(kwargs)
        return self.read(
            self.scale(inputs_embeds),
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=self.cache_to_fill(past_key_values, use_cache),
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            **kwargs,
        )


class MiniTransformerForConditionalGeneration(MiniTransformerPreTrainedModel, GenerationMixin):
    """An encoder, a decoder that looks at it, and a linear layer onto the vocabulary, which both share.

    The encoder is the base model: `AutoModel` opens it from a saved folder, and it can begin with the weights of any other head's base model.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  as above

    def __init__(self, config: MiniTransformerConfig) -> None:
        if config.is_decoder:
            raise ValueError(
                "is_decoder is True, but this head has an encoder that reads both ways; leave it out, or use MiniTransformerForCausalLM."
            )
        super().__init__(with_flag(config, "is_encoder_decoder"))
        self.model = MiniTransformerModel(self.config)
        self.decoder = MiniTransformerDecoder(self.config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> MiniTransformerModel:
        """The stack that reads the source; `generate` calls it once."""
        return self.model

    def prepare_decoder_input_ids_from_labels(self, labels: LongTensor) -> LongTensor:
        """What the decoder reads to predict `labels` (B, T): the start token and all labels but the last. Collators call this.

        Raises:
            ValueError: If the config names no token to start with.
        """
        start = self.config.bos_token_id if self.config.decoder_start_token_id is None else self.config.decoder_start_token_id
        if start is None:
            raise ValueError("labels were given, but no token to start with; set decoder_start_token_id or bos_token_id, or give decoder_input_ids.")
        filler = 0 if self.config.pad_token_id is None else self.config.pad_token_id
        shifted = labels.new_full(labels.shape, start)
        shifted[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == -100, filler)
        return cast(LongTensor, shifted)

    def prepare_inputs_for_generation(
        self,
        input_ids: LongTensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next step of `generate`, with the places of target tokens (B, T) among the real ones where some are padding."""
        mask = kwargs.get("decoder_attention_mask")
        if mask is not None and mask.dim() == 2 and kwargs.get("decoder_position_ids") is None:
            # With a static cache the mask below becomes one of four dimensions, in which places can no longer be counted.
            kwargs["decoder_position_ids"] = positions_of_tokens(mask, 0, mask.shape[1], mask.device)
        mixin: Any = super()  # transformers types its `self` by a protocol that mypy finds no model to fulfil
        inputs: dict[str, Any] = mixin.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        return inputs

    @can_return_tuple
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: LongTensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: ModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        decoder_position_ids: LongTensor | None = None,
        labels: LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Read a batch of sources and score every token of the targets.

        Args:
            input_ids: Source tokens (B, S).
            attention_mask: (B, S), 1 at real tokens of the source.
            decoder_input_ids: What the decoder reads, (B, T); by default made of `labels`.
            decoder_attention_mask: (B, T) or (B, past + T), 1 at real tokens that the decoder reads.
            encoder_outputs: What the encoder returned for these sources, to use it again; a tuple begins with its last hidden state (B, S, H).
            past_key_values: The decoder's keys and values to continue from.
            inputs_embeds: (B, S, H) instead of source tokens.
            decoder_inputs_embeds: (B, T, H) instead of `decoder_input_ids`.
            decoder_position_ids: (B, T), by default the place of each token among the real ones.
            labels: Targets (B, T), each in its place; -100 is ignored.
            use_cache: Whether to return keys and values; by default not beside labels.
            logits_to_keep: Compute logits for the last so many positions only, 0 for all; or a tensor of positions. Needs labels left out.
            **kwargs: `token_type_ids` (B, S) of the source. `num_items_in_batch`, which divides the summed loss instead of the number of targets at
                hand. The rest as in `MiniTransformerModel.forward`.

        Returns:
            `loss` in nats per target if there are labels, `logits` (B, T or fewer, V), `past_key_values`, `encoder_last_hidden_state` (B, S, H), on
            request hidden states, attentions and `cross_attentions`, each (B, N, T, S).
        """
        source = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "token_type_ids": kwargs.pop("token_type_ids", None)}
        encoded = self._encode(encoder_outputs, attention_mask=attention_mask, **source, **kwargs)
        if labels is not None:
            use_cache = bool(use_cache)
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.decoder(
            inputs_embeds=embeddings_of(self.model.embed_tokens, decoder_input_ids, decoder_inputs_embeds),
            encoder_hidden_states=encoded.last_hidden_state,
            attention_mask=decoder_attention_mask,
            encoder_attention_mask=attention_mask,
            position_ids=decoder_position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, positions])
        return Seq2SeqLMOutput(
            loss=None if labels is None else self._loss(logits, labels, **kwargs),
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )

    def _encode(self, encoder_outputs: Any, **source: Any) -> Any:
        """What the encoder returned before, or returns for `source`, the arguments of its forward."""
        if encoder_outputs is None:
            return self.model(**source)
        if isinstance(encoder_outputs, ModelOutput):
            return encoder_outputs
        return BaseModelOutput(*encoder_outputs)

    def _loss(self, logits: Tensor, labels: LongTensor, **kwargs: Any) -> Tensor:
        # The labels stand where they are predicted: the decoder's input was moved, so the loss must not move them again.
        return self.loss_function(logits=logits, labels=None, vocab_size=self.config.vocab_size, shift_labels=labels.contiguous(), **kwargs)


MiniTransformerForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
