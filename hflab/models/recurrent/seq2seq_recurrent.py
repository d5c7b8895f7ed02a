"""The recurrent encoder-decoder: an encoder of any kind, a decoder of the same cell, and attention from the one to the other.

    model = RecurrentForConditionalGeneration(RecurrentConfig(bidirectional=True, attention_type="multiplicative", bos_token_id=1, pad_token_id=0))
    outputs = model(input_ids=source, attention_mask=mask, labels=target)      # loss, logits; labels are shifted inside
    sequences = model.generate(source, attention_mask=mask, num_beams=4)

The decoder is a recurrence from the bridged states of the encoder (`encoder_recurrent.py`). What follows depends on `attention_type`:

- "multiplicative" and "additive": the outputs h_t of the recurrence attend over those of the encoder (`attention_recurrent.py`), and
  h~_t = tanh(W_c [c_t; h_t]) goes on to the output layer: Luong, Pham and Manning 2015, arXiv:1508.04025, equation 5, without input feeding. The
  attention so comes after the recurrence, which in training runs over the whole target in one go. Bahdanau, Cho and Bengio 2015,
  arXiv:1409.0473, from whom the additive score is, have the context feed the next state instead, at the price of a loop over time.
- "none": the first state is all that the decoder learns of the source, as in Sutskever, Vinyals and Le 2014, arXiv:1409.3215. What comes after the
  recurrence in the last block of a residual encoder is then read by nobody and gets no gradient (`leaves_parameters_unused`).

Source and target have one vocabulary. Knows nothing about tokenization and training.

B: batch, S: source tokens, T: target tokens, E: embedding size, H: hidden size, D: width of the encoder's outputs, A: width of keys, V: vocabulary.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import LongTensor, Tensor, nn
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils.output_capturing import capture_outputs

from .attention_recurrent import ATTENTIONS, RecurrentAttention
from .cache_recurrent import RecurrentCacheLayer, recurrent_layers
from .configuration_recurrent import RecurrentConfig
from .encoder_recurrent import RecurrentEncoder, RecurrentEncoderOutput, StateBridge
from .modeling_recurrent import RecurrentGenerationMixin, RecurrentModel, RecurrentPreTrainedModel, columns_of_call, refuse_unknown
from .pooling_recurrent import output_width

_SOURCE_ARGUMENTS = ("input_ids", "attention_mask", "inputs_embeds", "encoder_outputs")
_TARGET_ARGUMENTS = ("decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds", "labels", "past_key_values", "use_cache")


class SourceMemory(NamedTuple):
    """What the decoder attends to: keys (B, S, A) and the encoder's outputs (B, S, D); with "none" both are empty, (B, S, 0)."""

    keys: Tensor
    outputs: Tensor


class RecurrentForConditionalGeneration(RecurrentPreTrainedModel, RecurrentGenerationMixin):
    """Reads a source in whole and writes a target token by token.

    The encoder is called `model`, as in every head, so that its weights load from and into any other head. `past_key_values` is an
    `EncoderDecoderCache`: the decoder's states, one recurrent layer each, and as layer 0 of `cross_attention_cache` the `SourceMemory`, made once.

    With `tie_word_embeddings` the output layer shares the decoder's embedding, with `share_embeddings` the two embeddings are one. LoRA trains on
    all linear layers; of tied ones see `RecurrentForCausalLM`.
    """

    encodes_and_decodes = True
    _can_record_outputs = {"cross_attentions": RecurrentAttention}  # noqa: RUF012  as in RecurrentPreTrainedModel
    # all that can be tied, as transformers wants to know it; the config says what is
    _tied_weights_keys = {"decoder.embed_tokens.weight": "model.embed_tokens.weight", "lm_head.weight": "decoder.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        H = config.hidden_size
        self.model = RecurrentEncoder(self.config.encoder_config())
        self.bridge = StateBridge(config)
        self.decoder = RecurrentModel(self.config.decoder_config())
        head_width = cast(int, config.embedding_size) if config.tie_word_embeddings else H
        if config.attention_type == "none":
            self.attention = None
            self.head_projection = nn.Linear(H, head_width) if head_width != H else nn.Identity()
        else:
            self.attention = ATTENTIONS[config.attention_type](H, output_width(config))
            self.head_projection = nn.Linear(output_width(config) + H, head_width, bias=False)
        self.lm_head = nn.Linear(head_width, config.vocab_size)
        self.post_init()

    @property
    def leaves_parameters_unused(self) -> bool:
        """Whether some parameters get no gradient, so that DistributedDataParallel wants `find_unused_parameters=True`."""
        return self.config.attention_type == "none" and self.config.block_style == "residual"

    @capture_outputs
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: LongTensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: RecurrentEncoderOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Read a batch of sources, and score every next token of their targets.

        Args:
            input_ids: Source tokens (B, S); or give `inputs_embeds` or `encoder_outputs`. Not needed with a `past_key_values` that has begun.
            attention_mask: (B, S), 1 at real source tokens and 0 at padding, in any pattern. Needed in every call if there is padding.
            decoder_input_ids: Target tokens (B, T), the first one `decoder_start_token_id`; or give `decoder_inputs_embeds`, or `labels` alone.
            decoder_attention_mask: (B, T) or (B, past + T), 1 at real target tokens.
            encoder_outputs: What `get_encoder()` returned for the source, to spare running it again.
            past_key_values: Where the target so far ended, as an earlier call returned it; updated in place and returned.
            inputs_embeds: Source embeddings (B, S, E) instead of tokens.
            decoder_inputs_embeds: Target embeddings (B, T, E) instead of tokens.
            labels: Target tokens (B, T) in place, the target of position t at t; -100 is ignored. Alone, they also make `decoder_input_ids`.
            use_cache: Whether to return `past_key_values`; by default the config's `use_cache` when the model is not training.
            logits_to_keep: Compute logits for the last so many positions only, 0 for all; or a tensor of positions. Needs labels left out.
            **kwargs: `num_items_in_batch`, which divides the summed loss instead of the number of targets at hand; `output_attentions`,
                `output_hidden_states`, `return_dict`. Any other name is refused.

        Returns:
            `loss` in nats per target if there are labels, `logits` (B, T or fewer, V), `past_key_values`, `encoder_last_hidden_state` (B, S, D)
            unless the source was not given again, on request `cross_attentions`, one tensor (B, 1, T, S), `encoder_hidden_states` and
            `decoder_hidden_states`.

        Raises:
            ValueError: For inputs that do not fit together or that the config rules out.
            TypeError: For an argument that does not exist.
        """
        recorded = self._check_kwargs(kwargs)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        cache = self._cache_to_fill(past_key_values)
        if cache.is_updated.get(0):
            layer = self._memory_layer(cache)
            memory = SourceMemory(layer.keys, layer.values)
        else:
            if encoder_outputs is None:
                encoder_outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **recorded)
            memory = self._begin(cache, encoder_outputs, keep_memory=use_cache or past_key_values is not None)
        target = {"input_ids": decoder_input_ids, "inputs_embeds": decoder_inputs_embeds, "attention_mask": decoder_attention_mask}
        decoder_outputs = self.decoder(**target, past_key_values=cache.self_attention_cache, **recorded)
        hidden_states = self._attend(decoder_outputs.last_hidden_state, memory, attention_mask)
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, positions])
        return Seq2SeqLMOutput(
            loss=None if labels is None else self._loss(logits, labels, **kwargs),
            logits=logits,
            past_key_values=cache if use_cache or past_key_values is not None else None,
            decoder_hidden_states=decoder_outputs.hidden_states,
            encoder_last_hidden_state=None if encoder_outputs is None else encoder_outputs.last_hidden_state,
            encoder_hidden_states=None if encoder_outputs is None else encoder_outputs.hidden_states,
        )

    def _check_kwargs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Refuse what does not exist, and return the options for encoder and decoder; `cross_attentions` are recorded by the decorator."""
        wants_attentions = kwargs.pop("output_attentions", None) or self.config.output_attentions
        if wants_attentions and self.attention is None:
            raise ValueError(
                "output_attentions is True, but attention_type is 'none'; leave it out, or build the model with attention_type='multiplicative'."
            )
        refuse_unknown(kwargs, (*_SOURCE_ARGUMENTS, *_TARGET_ARGUMENTS, "logits_to_keep"))
        return {"output_hidden_states": kwargs.get("output_hidden_states", self.config.output_hidden_states), "return_dict": True}

    def _cache_to_fill(self, cache: Cache | None) -> EncoderDecoderCache:
        if cache is None:
            return EncoderDecoderCache(DynamicCache(config=self.decoder.config), DynamicCache(config=self.decoder.config))
        if not isinstance(cache, EncoderDecoderCache):
            raise ValueError(
                f"past_key_values is {cache}, but an encoder-decoder needs the decoder's state and the source's; build it with "
                "EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config)), or leave it out."
            )
        return cache

    def _begin(self, cache: EncoderDecoderCache, encoder_outputs: RecurrentEncoderOutput, *, keep_memory: bool) -> SourceMemory:
        """Start the decoder at the end of the source; the memory is put into the cache if it is kept."""
        final_hidden = getattr(encoder_outputs, "final_hidden", None)
        if final_hidden is None:
            raise ValueError(
                f"encoder_outputs is a {type(encoder_outputs).__name__} without final_hidden, but the decoder starts from the states that the "
                "encoder ends in; hand in what model.get_encoder() returned, or leave encoder_outputs out and give input_ids."
            )
        states = self.bridge(final_hidden, encoder_outputs.final_cell)
        for layer, state in zip(recurrent_layers(cache.self_attention_cache, len(states)), states, strict=True):
            layer.store_state(state, num_tokens=0)
        outputs = cast(Tensor, encoder_outputs.last_hidden_state)
        if self.attention is None:
            memory = SourceMemory(outputs[..., :0], outputs[..., :0])
        else:
            memory = SourceMemory(self.attention.key_projection(outputs), outputs)
        if keep_memory:
            self._memory_layer(cache).update(*memory, num_tokens=outputs.shape[1])
            cache.is_updated[0] = True
        return memory

    def _memory_layer(self, cache: EncoderDecoderCache) -> RecurrentCacheLayer:
        return recurrent_layers(cache.cross_attention_cache, self.decoder.config.num_hidden_layers)[0]

    def _attend(self, hidden_states: Tensor, memory: SourceMemory, attention_mask: Tensor | None) -> Tensor:
        """From the outputs of the decoder's recurrence (B, T, H) to what the output layer reads."""
        if self.attention is None:
            return self.head_projection(hidden_states)
        contexts, _ = self.attention(hidden_states, *memory, mask=columns_of_call(attention_mask, memory.keys))
        return torch.tanh(self.head_projection(torch.cat([contexts, hidden_states], dim=-1)))

    def _loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        # the decoder read the labels shifted, so that they are in place here; transformers' loss of this name would shift them once more
        return self.loss_function(logits=logits, labels=None, vocab_size=self.config.vocab_size, shift_labels=labels.contiguous(), **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: LongTensor) -> LongTensor:
        """What the decoder reads to be asked for `labels` (B, T): the same one place later, after `decoder_start_token_id`; -100 becomes padding.

        Raises:
            ValueError: If the config names no token to start with, or none to pad with where there is a -100 to replace.
        """
        start, pad = self.config.decoder_start_token_id, self.config.pad_token_id
        start = self.config.bos_token_id if start is None else start
        if start is None:
            raise ValueError("decoder_start_token_id and bos_token_id are None, but the decoder has to begin with one of them; set it in the config.")
        shifted = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
        if pad is None and not torch.compiler.is_compiling() and (shifted == -100).any():
            raise ValueError("labels hold -100, but pad_token_id is None and nothing can be read there; set it in the config.")
        return cast(LongTensor, shifted if pad is None else shifted.masked_fill(shifted == -100, pad))

    def get_encoder(self, modality: str | None = None) -> RecurrentEncoder:
        """The encoder; it has no other modality than text."""
        return self.model

    def get_decoder(self) -> RecurrentModel:
        """The decoder's recurrence, without attention and output layer."""
        return self.decoder

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """The weights that are one, as target: source. transformers looks at `tie_word_embeddings` alone, and `share_embeddings` is apart from it."""
        encoder, decoder, output = "model.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"
        tied = {decoder: encoder} if self.config.share_embeddings else {}
        return tied | {output: tied.get(decoder, decoder)} if self.config.tie_word_embeddings else tied

    def _resize_token_embeddings(self, new_num_tokens: int | None, *args: Any, **kwargs: Any) -> nn.Embedding:
        self.decoder._resize_token_embeddings(new_num_tokens, *args, **kwargs)
        return super()._resize_token_embeddings(new_num_tokens, *args, **kwargs)


RecurrentForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
