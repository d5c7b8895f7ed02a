"""Mini-Transformers: embeddings, a stack of blocks, and a head that generates text, as transformers models.

    model = MiniTransformerForCausalLM(MiniTransformerConfig(vocab_size=96, norm_position="pre", hidden_act="gelu"))
    outputs = model(input_ids=ids, labels=ids)                                     # loss, logits
    outputs = model(input_ids=more, past_key_values=outputs.past_key_values)       # goes on from there, outside of training

The other heads are in the `heads_…` files. Knows nothing about how attention is computed (`attention_mini_transformer.py`), tokenization or training.

B: batch, T: time, S: time of the encoder, H: hidden size, V: vocabulary.
"""

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import LongTensor, Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel, initialization
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .arguments_mini_transformer import check_mask, embeddings_of, refuse_unknown, with_flag
from .attention_mini_transformer import Rotation, SelfAttention
from .blocks_mini_transformer import MiniTransformerBlock
from .configuration_mini_transformer import MiniTransformerConfig
from .positions_mini_transformer import positions_of_tokens, rotations, sinusoids

if TYPE_CHECKING:  # save_pretrained copies the files named here too, so that a folder saved by one head can be opened by every other
    from .heads_classification_mini_transformer import MiniTransformerForTokenClassification as _Classification  # noqa: F401
    from .heads_masked_mini_transformer import MiniTransformerForMaskedLM as _Masked  # noqa: F401
    from .heads_seq2seq_mini_transformer import MiniTransformerForConditionalGeneration as _Seq2Seq  # noqa: F401


class MiniTransformerPreTrainedModel(PreTrainedModel):
    """What all mini-Transformers share: initialisation, and what they can and cannot do."""

    config: MiniTransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # transformers declares these as plain attributes, so mypy refuses a ClassVar
    _no_split_modules = ["MiniTransformerBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": MiniTransformerBlock, "attentions": OutputRecorder(SelfAttention, index=1)}  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For code outside transformers, modules without a parameter of their own, such as a block, would be passed over: a guard for code that
        # overwrites loaded tensors. `_init_weights` writes through `transformers.initialization`, which never does.
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """All initialisation: normal with `initializer_range` and zero biases as transformers does, but for two scales that matter."""
        super()._init_weights(module)
        if isinstance(module, MiniTransformerModel) and self.config.scale_embedding:
            # Multiplied by sqrt(H) in `scale`, token embeddings reach the unit variance of the positions; as a tied head they give unit logits.
            initialization.normal_(module.embed_tokens.weight, std=self.config.hidden_size**-0.5)
        if isinstance(module, MiniTransformerStack) and self.config.norm_position == "pre":
            self._init_residual_projections(module)

    def _init_residual_projections(self, stack: "MiniTransformerStack") -> None:
        # Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3: the stream of a pre-norm model is a sum over all
        # sublayers, whose variance would grow with their number.
        writers = ("output_projection", "down_projection")
        projections = [cast(nn.Linear, module) for name, module in stack.layers.named_modules() if name.endswith(writers)]
        for projection in projections:
            initialization.normal_(projection.weight, std=self.config.initializer_range / math.sqrt(len(projections)))


class MiniTransformerStack(MiniTransformerPreTrainedModel):
    """Positions, blocks and the norm after them: what the model without a head, an encoder and a decoder share."""

    def __init__(self, config: MiniTransformerConfig, *, num_layers: int, is_causal: bool, has_cross_attention: bool = False) -> None:
        super().__init__(config)
        H, eps = config.hidden_size, config.layer_norm_eps
        self.is_causal = is_causal
        self.has_cross_attention = has_cross_attention
        self.embed_positions = nn.Embedding(config.max_position_embeddings, H) if config.position_embedding_type == "learned" else None
        self.embedding_norm = nn.LayerNorm(H, eps=eps) if config.embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(
            MiniTransformerBlock(config, layer_idx, is_causal=is_causal, has_cross_attention=has_cross_attention) for layer_idx in range(num_layers)
        )
        self.norm = nn.LayerNorm(H, eps=eps) if config.norm_position == "pre" else nn.Identity()
        self.gradient_checkpointing = False

    def scale(self, embeds: Tensor) -> Tensor:
        """Token embeddings (B, T, H) on the scale of the positions. Vaswani et al. 2017, section 3.4."""
        return embeds * math.sqrt(self.config.hidden_size) if self.config.scale_embedding else embeds

    def read(
        self,
        embeds: Tensor,
        *,
        attention_mask: Tensor | None,
        position_ids: LongTensor | None,
        cache: Cache | None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Run the blocks over embeddings (B, T, H) that lack only their positions; the rest as in `MiniTransformerModel.forward`."""
        check_mask(attention_mask, embeds)
        self_cache = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        positions = self._positions(embeds, attention_mask, position_ids, self_cache)
        mask = self._mask(embeds, attention_mask, position_ids, self_cache)
        encoder_mask = None
        if encoder_hidden_states is not None:
            encoder_mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=embeds, attention_mask=encoder_attention_mask, encoder_hidden_states=encoder_hidden_states
            )
        hidden_states = self.embedding_norm(self._add_positions(embeds, positions))
        hidden_states = F.dropout(hidden_states, self.config.embedding_dropout, training=self.training)
        rotation = self._rotation(positions)
        for block in self.layers:
            hidden_states = block(
                hidden_states,
                encoder_hidden_states,
                attention_mask=mask,
                encoder_attention_mask=encoder_mask,
                rotation=rotation,
                past_key_values=cache,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.norm(hidden_states), past_key_values=cache)

    def cache_to_fill(self, cache: Cache | None, use_cache: bool | None) -> Cache | None:
        """The cache that a call reads and updates, or None."""
        if not self.is_causal:
            if cache is not None or use_cache:
                raise ValueError(
                    "past_key_values or use_cache=True was given to a model that reads both ways, which needs whole rows; leave them out, or build "
                    "the model with is_decoder=True."
                )
            return None
        if cache is not None:
            if self.has_cross_attention and not isinstance(cache, EncoderDecoderCache):
                raise ValueError(
                    f"past_key_values is a {type(cache).__name__}, but a decoder beside an encoder keeps keys of both; give "
                    "EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))."
                )
            return cache
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if not use_cache or (self.gradient_checkpointing and self.training):  # blocks that run twice would store their keys twice
            return None
        own = DynamicCache(config=self.config)
        return EncoderDecoderCache(own, DynamicCache(config=self.config)) if self.has_cross_attention else own

    def _mask(self, embeds: Tensor, attention_mask: Tensor | None, position_ids: LongTensor | None, cache: Cache | None) -> Any:
        """The mask of self-attention, of the kind that the attention implementation wants."""
        if not self.is_causal:
            return create_bidirectional_mask(config=self.config, inputs_embeds=embeds, attention_mask=attention_mask)
        if isinstance(cache, DynamicCache) and cache.get_seq_length() == 0:
            cache = None  # it hides nothing yet, and beside a cache transformers would not look for several texts in a row
        return create_causal_mask(
            config=self.config, inputs_embeds=embeds, attention_mask=attention_mask, past_key_values=cache, position_ids=position_ids
        )

    def _positions(self, embeds: Tensor, attention_mask: Tensor | None, position_ids: LongTensor | None, cache: Cache | None) -> Tensor:
        """The positions (B or 1, T) of the tokens at hand: those given, or the places among the real tokens."""
        if position_ids is not None:
            return position_ids
        past_length = 0 if cache is None else cache.get_seq_length()
        mask = attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None
        return positions_of_tokens(mask, past_length, embeds.shape[1], embeds.device)

    def _add_positions(self, embeds: Tensor, positions: Tensor) -> Tensor:
        if self.embed_positions is not None:
            self._check_learned(positions)
            return embeds + self.embed_positions(positions)
        if self.config.position_embedding_type == "sinusoidal":
            return embeds + sinusoids(positions, embeds.shape[-1]).to(embeds.dtype)
        return embeds

    def _check_learned(self, positions: Tensor) -> None:
        # On CUDA an index beyond the table would end the process's use of the device, and waiting for the answer costs little on the CPU only.
        limit = self.config.max_position_embeddings
        if torch.compiler.is_compiling() or positions.device.type == "meta":
            return
        if (positions.device.type == "cpu" or positions.shape[1] > limit) and int(positions.max()) >= limit:
            raise ValueError(
                f"Position {int(positions.max())} was reached, but max_position_embeddings is {limit} and learned positions end there; give shorter "
                "rows, or build the model with more positions or position_embedding_type='rotary'."
            )

    def _rotation(self, positions: Tensor) -> Rotation | None:
        if self.config.position_embedding_type != "rotary":
            return None
        return rotations(positions, self.config.hidden_size // self.config.num_attention_heads, self.config.rotary_base)


class MiniTransformerModel(MiniTransformerStack):
    """Embeddings and blocks, without a head: an encoder, or with `is_decoder` a stack that reads from left to right."""

    def __init__(self, config: MiniTransformerConfig) -> None:
        super().__init__(config, num_layers=config.num_hidden_layers, is_causal=config.is_decoder)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_token_types = nn.Embedding(config.type_vocab_size, config.hidden_size) if config.type_vocab_size else None
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Read a batch of rows.

        Args:
            input_ids: Tokens (B, T); or give `inputs_embeds`.
            attention_mask: (B, T), or (B, past + T) where tokens were read before: 1 at real tokens and 0 at padding, in any pattern. Padding is
                seen by no token and takes no position. Or a mask (B, 1, T, past + T), True where a query sees a key.
            position_ids: (B, T) or (1, T), from 0; by default the place of each token among the real tokens of its row. Texts side by side in a
                row, each beginning at position 0, do not see each other if the model reads from left to right and there is neither a mask nor a past.
            past_key_values: Keys and values to continue from, as an earlier call returned them; updated in place and returned.
            inputs_embeds: Embeddings (B, T, H) instead of tokens, as `embed_tokens` gives them.
            token_type_ids: Segments (B, T), each below `type_vocab_size`; by default 0.
            use_cache: Whether to return `past_key_values`. By default the config's `use_cache` when the model reads from left to right and is not
                training; a cache that was handed in is always updated and returned.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict` and the like, as transformers passes them; any other name is refused.

        Returns:
            `last_hidden_state` (B, T, H); `past_key_values`; on request `hidden_states` and `attentions`, each (B, N, T, past + T). Attentions need
            `model.set_attn_implementation("eager")`: other implementations never form the weights, warn of it and give none.

        Raises:
            ValueError: For inputs that do not fit together or that the config rules out.
            TypeError: For an argument that does not exist.
        """
        refuse_unknown(kwargs)
        embeds = self.scale(embeddings_of(self.embed_tokens, input_ids, inputs_embeds))
        embeds = self._add_token_types(embeds, token_type_ids)
        cache = self.cache_to_fill(past_key_values, use_cache)
        return self.read(embeds, attention_mask=attention_mask, position_ids=position_ids, cache=cache, **kwargs)

    def _add_token_types(self, embeds: Tensor, token_type_ids: LongTensor | None) -> Tensor:
        if self.embed_token_types is not None:
            first = torch.zeros(1, 1, dtype=torch.long, device=embeds.device)
            return embeds + self.embed_token_types(first if token_type_ids is None else token_type_ids)
        if token_type_ids is not None and not torch.compiler.is_compiling() and token_type_ids.any():  # tokenizers hand out zeros unasked
            raise ValueError("token_type_ids names several segments, but type_vocab_size is 0; build the model with type_vocab_size=2.")
        return embeds


class MiniTransformerForCausalLM(MiniTransformerPreTrainedModel, GenerationMixin):
    """A language model that reads from left to right: `MiniTransformerModel` and a linear layer onto the vocabulary.

    With `tie_word_embeddings` the layer shares the embedding's weight. LoRA trains on `query_key_value_projection`, `output_projection`,
    `up_projection`, `down_projection` and any other linear layer, but not on the embedding or `lm_head` of a tied model: merging would write the
    adapter into both uses of the one weight. peft warns of it; untie the model or leave these two out of `target_modules`.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  as above

    def __init__(self, config: MiniTransformerConfig) -> None:
        if config.is_encoder_decoder:
            raise ValueError(
                "is_encoder_decoder is True, but this head has one stack; use MiniTransformerForConditionalGeneration, or set it to False."
            )
        super().__init__(with_flag(config, "is_decoder"))
        self.model = MiniTransformerModel(self.config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Read a batch of rows and score every next token; arguments not named here are those of `MiniTransformerModel.forward`.

        Args:
            input_ids: Tokens (B, T).
            attention_mask: (B, T) or (B, past + T), 1 at real tokens.
            position_ids: (B, T), by default the place of each token among the real ones.
            past_key_values: Keys and values to continue from.
            inputs_embeds: (B, T, H) instead of tokens.
            labels: (B, T), usually `input_ids` itself: the token at t + 1 is the target at t, so the row's last position has none. -100 is ignored.
            use_cache: Whether to return keys and values.
            logits_to_keep: Compute logits for the last so many positions only, 0 for all; or a tensor of positions. Needs labels left out.
            **kwargs: `shift_labels` (B, T), targets already in place, the target of position t at t, taken instead of `labels`. It is not named
                above because the Trainer demands every named label. `num_items_in_batch`, which divides the summed loss instead of the number of
                targets at hand. The rest as in `MiniTransformerModel.forward`.

        Returns:
            `loss` in nats per target if there are labels, `logits` (B, T or fewer, V), `past_key_values`, on request `hidden_states` and
            `attentions`.
        """
        shift_labels = kwargs.pop("shift_labels", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, positions])
        loss = None
        if labels is not None or shift_labels is not None:
            shift_labels = None if shift_labels is None else shift_labels.contiguous()  # the loss takes a view
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, shift_labels=shift_labels, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


MiniTransformerModel.register_for_auto_class("AutoModel")
MiniTransformerForCausalLM.register_for_auto_class("AutoModelForCausalLM")
