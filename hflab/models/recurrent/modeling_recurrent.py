"""Recurrent models: token embedding, blocks of recurrences, and a language-model head, as transformers models. Other heads have files of their own.

    model = RecurrentForCausalLM(RecurrentConfig(cell_type="lstm", vocab_size=96, hidden_size=256))
    outputs = model(input_ids=ids, labels=ids)                                     # loss, logits, past_key_values
    outputs = model(input_ids=more, past_key_values=outputs.past_key_values)       # goes on from there

Knows nothing about how a cell steps (`cells_recurrent.py`), how a sequence is run fast (`sequence_recurrent.py`), tokenization or training.
The regularisation is that of AWD-LSTM: Merity, Keskar and Socher 2017, arXiv:1708.02182, cited below as "Merity".

B: batch, T: time, E: embedding size, H: hidden size, D: any feature width, V: vocabulary.
"""

import copy
import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, cast

import torch
from torch import LongTensor, Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .blocks_recurrent import BLOCKS, RecurrentBlock, locked_dropout
from .cache_recurrent import recurrent_layers
from .cells_recurrent import LstmCell, RecurrentCell, RecurrentState
from .configuration_recurrent import RecurrentConfig

# What transformers passes to any model's forward beyond its named arguments, and what tokenizers of BERT's kind hand out unasked. Every other
# name is a mistake that must not vanish.
_PASSED_BY_TRANSFORMERS = ("num_items_in_batch", "output_hidden_states", "output_attentions", "token_type_ids")
_ARGUMENTS = ("input_ids", "attention_mask", "past_key_values", "inputs_embeds", "use_cache", "labels", "shift_labels", "state_resets")


class RecurrentPreTrainedModel(PreTrainedModel):
    """What all recurrent models share: initialisation, and what they can and cannot do."""

    config: RecurrentConfig
    base_model_prefix = "model"
    encodes_and_decodes: ClassVar[bool] = False  # whether the model has an encoder and a decoder
    supports_gradient_checkpointing = True
    # transformers declares these as plain attributes, so mypy refuses a ClassVar
    _no_split_modules = ["StackedBlock", "ResidualBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": RecurrentBlock}  # noqa: RUF012
    _can_compile_fullgraph = True  # the step of decoding
    _is_stateful = True  # assisted decoding would have to take tokens back, which a state cannot

    def __init__(self, config: RecurrentConfig) -> None:
        if config.is_encoder_decoder != self.encodes_and_decodes:
            # One config serves every head, while this field is a fact about the head, by which transformers generates: the model keeps a copy.
            config = copy.deepcopy(config)
            config.is_encoder_decoder = self.encodes_and_decodes
        super().__init__(config)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For code outside transformers, modules without a parameter of their own, such as a cell, would be passed over: a guard for code that
        # overwrites loaded tensors. `_init_weights` writes through `transformers.initialization`, which never does.
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """All initialisation: of linear layers, of the embedding, of the recurrent weights; norms and biases as transformers does."""
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            bound = module.weight[0].numel() ** -0.5  # of what one output is summed over
            initialization.uniform_(module.weight, -bound, bound)
        elif isinstance(module, nn.Embedding):
            initialization.normal_(module.weight, std=self._embedding_std(module))
        elif isinstance(module, RecurrentCell):
            self._init_recurrence(module)

    def _embedding_std(self, embedding: nn.Embedding) -> float:
        # Residual blocks normalise what they read, so the scale is free. Stacked blocks feed embeddings to their gates as they are, which want
        # unit variance; as a tied head the same numbers should give logits of unit variance, 1 / sqrt(E), so they meet halfway.
        if self.config.block_style == "residual":
            return self.config.initializer_range
        return embedding.embedding_dim**-0.25 if self.config.tie_word_embeddings else 1.0

    def _init_recurrence(self, cell: RecurrentCell) -> None:
        H, weight = cell.hidden_size, cell.hidden_projection.weight
        if self.config.recurrent_initializer == "normal":
            initialization.normal_(weight, std=self.config.initializer_range)
        elif self.config.recurrent_initializer == "orthogonal" and not getattr(weight, "_is_hf_initialized", False):
            # One square matrix per gate (Saxe, McClelland and Ganguli 2014, arXiv:1312.6120), written as one tensor: a slice loses the mark
            # by which transformers knows weights that came from a checkpoint. Those are left alone above, as the matrices take long to draw.
            gates = [initialization.orthogonal_(torch.empty(H, H, device=weight.device)) for _ in range(cell.num_gates)]
            initialization.copy_(weight, torch.cat(gates))
        if isinstance(cell, LstmCell):
            bias = torch.zeros_like(cell.input_projection.bias)
            bias[H : 2 * H] = self.config.forget_bias
            initialization.copy_(cell.input_projection.bias, bias)


class RecurrentStack(RecurrentPreTrainedModel):
    """What reads embeddings, whatever they are of: blocks, the norm after them, and the state that goes from call to call."""

    def _add_blocks(self) -> None:
        """Called once by the constructor, after what makes the embeddings."""
        config = self.config
        residual = config.block_style == "residual"
        E, H = cast(int, config.embedding_size), config.hidden_size
        self.embedding_projection = nn.Linear(E, H) if residual and E != H else nn.Identity()
        self.layers = nn.ModuleList(BLOCKS[config.block_style](config, layer_idx) for layer_idx in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(H, eps=config.layer_norm_eps) if residual else nn.Identity()

    def _read(self, embeds: Tensor, *, mask: Tensor | None, resets: Tensor | None, cache: Cache | None) -> BaseModelOutputWithPast:
        """Run the blocks over `embeds` (B, T, E), from and into `cache` if there is one; `mask` and `resets` (B, T) as in `run_sequence`."""
        hidden_states = self.embedding_projection(embeds)
        if cache is None:
            for block in self.layers:
                hidden_states = block(hidden_states, mask=mask, resets=resets)[0]
        else:
            for block, layer in zip(self.layers, recurrent_layers(cache, self.config.num_hidden_layers, len(embeds)), strict=True):
                past = layer.state or (None, None)
                hidden_states, *state = block(hidden_states, *past, mask=mask, resets=resets, keep_state=True)
                layer.store_state(RecurrentState(*state), num_tokens=embeds.shape[1])
        hidden_states = locked_dropout(self.norm(hidden_states), self.config.output_dropout, training=self.training)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, past_key_values=cache)

    def _cache_to_fill(self, cache: Cache | None, use_cache: bool | None) -> Cache | None:
        """The cache that this call reads and updates, or None; see `RecurrentModel.forward`."""
        if self.config.bidirectional:
            if cache is not None or use_cache:
                raise ValueError(
                    "past_key_values or use_cache=True was given to a bidirectional model, which needs whole rows and has no state to carry; "
                    "leave them out, or build the model with bidirectional=False."
                )
            return None
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        return DynamicCache(config=self.config) if cache is None and use_cache else cache


class RecurrentModel(RecurrentStack):
    """Embedding and blocks, without a head."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, cast(int, config.embedding_size))
        self._add_blocks()
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        state_resets: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Read a batch of rows.

        Args:
            input_ids: Tokens (B, T); or give `inputs_embeds`.
            attention_mask: (B, T), or (B, past + T) as generation keeps it, whose last T columns count. 1 at real tokens and 0 at padding, in
                any pattern. Padding leaves the state as it was.
            past_key_values: State to continue from, as an earlier call returned it; updated in place and returned.
            inputs_embeds: Embeddings (B, T, E) instead of tokens. They get no embedding dropout, which drops token types.
            use_cache: Whether to return the state as `past_key_values`. By default the config's `use_cache` when the model reads one way and is
                not training; a state that was handed in is always updated and returned.
            state_resets: (B, T), True at real tokens where a new text begins: the state is set to zero before that token is read.
            **kwargs: `output_hidden_states`, `return_dict` and the like, as transformers passes them; any other name is refused.

        Returns:
            `last_hidden_state` (B, T, H), twice as wide for bidirectional stacked blocks; `past_key_values`; on request `hidden_states`.

        Raises:
            ValueError: For inputs that do not fit together or that the config rules out.
            TypeError: For an argument that does not exist.
        """
        refuse_unknown(kwargs, _ARGUMENTS)
        embeds = self._embed(input_ids, inputs_embeds)
        cache = self._cache_to_fill(past_key_values, use_cache)
        mask, resets = columns_of_call(attention_mask, embeds), self._resets_of_call(state_resets, embeds)
        return self._read(embeds, mask=mask, resets=resets, cache=cache)

    def _embed(self, input_ids: LongTensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Embeddings (B, T, E): those given, or of tokens (B, T), in training with whole token types dropped (Merity, section 4.3)."""
        if input_ids is None and inputs_embeds is not None:
            return inputs_embeds
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("Both or neither of input_ids and inputs_embeds were given; give exactly one of them.")
        embeds = self.embed_tokens(input_ids)
        if not self.training or self.config.embedding_dropout == 0:
            return embeds
        kept_types = F.dropout(embeds.new_ones(self.embed_tokens.num_embeddings, 1), self.config.embedding_dropout)
        return embeds * F.embedding(input_ids, kept_types)

    def _resets_of_call(self, state_resets: Tensor | None, embeds: Tensor) -> Tensor | None:
        """The resets (B, T) of this call, or None if there are none."""
        if state_resets is None:
            return None
        if self.config.bidirectional:
            raise ValueError("state_resets was given to a bidirectional model, which reads whole rows; give each text a row of its own.")
        if state_resets.shape != embeds.shape[:2]:
            raise ValueError(f"state_resets has shape {tuple(state_resets.shape)}, but the tokens have {tuple(embeds.shape[:2])}; mark every token.")
        return state_resets.bool() if torch.compiler.is_compiling() or state_resets.any() else None


class RecurrentGenerationMixin(GenerationMixin):
    """What `generate` has to know of a recurrent model, beyond `_is_stateful`."""

    @staticmethod
    def create_masks_for_generate(config: RecurrentConfig, inputs_embeds: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Tensor | None:
        """The mask of one step of `generate`, which calls this hook instead of making an attention mask that grows from step to step.

        `inputs_embeds` is (B, T, 0) and only says how many tokens are read; `attention_mask` is (B, past + T). None where all tokens are real, as
        generated ones are: so decoding compiles once.
        """
        return columns_of_call(attention_mask, inputs_embeds)

    def _get_static_cache_init_shape(self) -> None:
        """None: the layers of the cache allocate their states at the first token; transformers would look for attention heads."""


class RecurrentForCausalLM(RecurrentPreTrainedModel, RecurrentGenerationMixin):
    """A language model that reads from left to right: `RecurrentModel` and a linear layer onto the vocabulary.

    With `tie_word_embeddings` the layer shares the embedding's weight (Merity, section 4.4). LoRA trains on `input_projection`,
    `hidden_projection` and any other linear layer, but not on the embedding or `lm_head` of a tied model: merging would write the adapter into
    both uses of the one weight. peft warns of it; untie the model or leave these two out of `target_modules`.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  as above

    def __init__(self, config: RecurrentConfig) -> None:
        if config.bidirectional:
            raise ValueError(
                "bidirectional is True, but a causal language model reads from left to right only; set bidirectional=False, or use RecurrentModel."
            )
        super().__init__(config)
        self.model = RecurrentModel(self.config)
        H, head_width = config.hidden_size, cast(int, config.embedding_size) if config.tie_word_embeddings else config.hidden_size
        self.head_projection = nn.Linear(H, head_width) if head_width != H else nn.Identity()
        self.lm_head = nn.Linear(head_width, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        state_resets: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Read a batch of rows and score every next token; arguments not named here are those of `RecurrentModel.forward`.

        Args:
            input_ids: Tokens (B, T).
            attention_mask: (B, T) or (B, past + T), 1 at real tokens.
            past_key_values: State to continue from.
            inputs_embeds: (B, T, E) instead of tokens.
            labels: (B, T), usually `input_ids` itself: the token at t + 1 is the target at t, so the row's last position has none. -100 is ignored.
            use_cache: Whether to return the state.
            logits_to_keep: Compute logits for the last so many positions only, 0 for all; or a tensor of positions. Needs labels left out.
            state_resets: (B, T), True where a new text begins.
            **kwargs: `shift_labels` (B, T), targets already in place, the target of position t at t, taken instead of `labels`: for windows of a
                longer text, whose last target lies outside the window. It is not named above because the Trainer demands every named label.
                `num_items_in_batch`, which divides the summed loss instead of the number of targets at hand. The rest as in
                `RecurrentModel.forward`.

        Returns:
            `loss` in nats per target if there are labels, `logits` (B, T or fewer, V), `past_key_values`, on request `hidden_states`.
        """
        shift_labels = kwargs.pop("shift_labels", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            state_resets=state_resets,
            **kwargs,
        )
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(self.head_projection(outputs.last_hidden_state[:, positions]))
        loss = None
        if labels is not None or shift_labels is not None:
            shift_labels = None if shift_labels is None else shift_labels.contiguous()  # the loss takes a view
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, shift_labels=shift_labels, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states)


def columns_of_call(attention_mask: Tensor | None, embeds: Tensor) -> Tensor | None:
    """The columns (B, T) of the mask that belong to the tokens at hand, or None if all of these are real."""
    if attention_mask is None:
        return None
    B, T = embeds.shape[:2]
    if attention_mask.dim() != 2 or attention_mask.shape[0] != B or attention_mask.shape[1] < T:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, but ({B}, {T}) is needed, or more columns for tokens read before; "
            "give 1 for every real token and 0 for padding."
        )
    mask = attention_mask[:, -T:].bool()
    return mask if torch.compiler.is_compiling() or not mask.all() else None


def refuse_unknown(kwargs: dict[str, Any], arguments: Iterable[str]) -> None:
    """Raise a TypeError for a keyword argument that means nothing here, a ValueError for outputs that do not exist.

    `arguments` are the names that exist; the message names the nearest.
    """
    if kwargs.get("output_attentions"):
        raise ValueError("output_attentions is True, but a recurrent model has no attentions; ask for output_hidden_states instead.")
    for name in kwargs:
        if name in _PASSED_BY_TRANSFORMERS:
            continue
        if name in ("position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k"):
            raise TypeError(f"{name} was given, but a recurrent model has no positions; mark the start of each text in a row with state_resets.")
        close = difflib.get_close_matches(name, list(arguments), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{name} was given, but is no argument of a recurrent model; leave it out.{hint}")


RecurrentModel.register_for_auto_class("AutoModel")
RecurrentForCausalLM.register_for_auto_class("AutoModelForCausalLM")
