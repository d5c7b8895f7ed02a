"""Heads that fill in hidden tokens: masked language modelling, alone and together with next-sentence prediction.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", arXiv:1810.04805, section 3.1. Knows nothing
about which tokens are hidden: the data does that.

B: batch, T: time, H: hidden size, V: vocabulary.
"""

from dataclasses import dataclass
from typing import Any

from torch import LongTensor, Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils.generic import ModelOutput, can_return_tuple

from .blocks_mini_transformer import activation_of
from .configuration_mini_transformer import MiniTransformerConfig
from .modeling_mini_transformer import MiniTransformerModel, MiniTransformerPreTrainedModel
from .pooling_mini_transformer import Pooler


class TokenTransform(nn.Module):
    """What BERT has between the last block and the vocabulary: a linear layer, the activation and a norm."""

    def __init__(self, config: MiniTransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation_of(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """From (B, T, H) to (B, T, H)."""
        return self.norm(self.activation(self.dense(hidden_states)))


class MiniTransformerForMaskedLM(MiniTransformerPreTrainedModel):
    """A model that reads both ways and names the tokens that were hidden from it."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  transformers declares it as a plain attribute

    def __init__(self, config: MiniTransformerConfig) -> None:
        _refuse_decoder(config)
        super().__init__(config)
        self.model = MiniTransformerModel(config)
        self.transform = TokenTransform(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: LongTensor | None = None,
        position_ids: LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: LongTensor | None = None,
        logits_to_keep: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Read a batch of rows and score every token, or some of them.

        Args:
            input_ids: Tokens (B, T), some of them hidden.
            attention_mask: (B, T), 1 at real tokens.
            token_type_ids: Segments (B, T).
            position_ids: (B, T).
            inputs_embeds: (B, T, H) instead of tokens.
            labels: (B, T), the hidden tokens in their places and -100 everywhere else.
            logits_to_keep: (B, T), true where logits are wanted; the vocabulary is scored at these P tokens alone. Needs labels left out.
            **kwargs: `num_items_in_batch`, which divides the summed loss instead of the number of labels at hand. The rest as in
                `MiniTransformerModel.forward`.

        Returns:
            `loss` in nats per label if there are labels, `logits` (B, T, V) or, of the tokens asked for in reading order, (P, V), on request
            `hidden_states` and `attentions`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = self.lm_head(self.transform(_kept(outputs.last_hidden_state, logits_to_keep)))
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)


@dataclass
class MiniTransformerForPreTrainingOutput(ModelOutput):
    """What `MiniTransformerForPreTraining` returns.

    Attributes:
        loss: the sum of both losses, or the one that there are labels for.
        prediction_logits: (B, T, V), or (P, V) of the tokens that were asked for.
        seq_relationship_logits: (B, 2), of "follows" and "does not follow".
        hidden_states: on request, before and after each block, each (B, T, H).
        attentions: on request, of each block, each (B, N, T, T).
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MiniTransformerForPreTraining(MiniTransformerPreTrainedModel):
    """Masked language modelling and next-sentence prediction at once. Segments need `type_vocab_size=2`."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  as above

    def __init__(self, config: MiniTransformerConfig) -> None:
        _refuse_decoder(config)
        super().__init__(config)
        self.loss_type = "ForMaskedLM"  # transformers knows no loss by this class's name
        self.model = MiniTransformerModel(config)
        self.transform = TokenTransform(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.pooler = Pooler(config)
        self.next_sentence_classifier = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: LongTensor | None = None,
        position_ids: LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: LongTensor | None = None,
        next_sentence_label: LongTensor | None = None,
        num_pairs_in_batch: int | Tensor | None = None,
        logits_to_keep: Tensor | None = None,
        **kwargs: Any,
    ) -> MiniTransformerForPreTrainingOutput:
        """Read a batch of pairs of sentences; arguments not named here are those of `MiniTransformerForMaskedLM.forward`.

        Args:
            input_ids: Tokens (B, T), some of them hidden.
            attention_mask: (B, T), 1 at real tokens.
            token_type_ids: (B, T), 0 in the first sentence and 1 in the second.
            position_ids: (B, T).
            inputs_embeds: (B, T, H) instead of tokens.
            labels: (B, T), the hidden tokens in their places and -100 everywhere else.
            next_sentence_label: (B,), 0 if the second sentence follows the first and 1 if not; -100 is ignored.
            num_pairs_in_batch: The number of pairs in all micro-batches of a step, which divides the summed next-sentence loss.
            logits_to_keep: (B, T), true where logits are wanted, as in `MiniTransformerForMaskedLM.forward`.
            **kwargs: `num_items_in_batch`, the number of hidden tokens in all micro-batches of a step, which divides the summed first loss. Without
                `num_pairs_in_batch`, which transformers' Trainer does not pass, the mean next-sentence loss then counts by this micro-batch's share
                of the hidden tokens: exact where all micro-batches hold equally many, near it elsewhere.

        Returns:
            See `MiniTransformerForPreTrainingOutput`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = self.lm_head(self.transform(_kept(outputs.last_hidden_state, logits_to_keep)))
        relationship = self.next_sentence_classifier(self.pooler(outputs.last_hidden_state, attention_mask))
        losses = []
        if labels is not None:
            losses.append(self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs))
        if next_sentence_label is not None:
            scores, targets = relationship.float(), next_sentence_label.view(-1)
            if num_pairs_in_batch is None:
                losses.append(_share(labels, kwargs) * F.cross_entropy(scores, targets))
            else:
                losses.append(F.cross_entropy(scores, targets, reduction="sum") / num_pairs_in_batch)
        return MiniTransformerForPreTrainingOutput(
            loss=sum(losses) if losses else None,
            prediction_logits=logits,
            seq_relationship_logits=relationship,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _kept(hidden_states: Tensor, wanted: Tensor | None) -> Tensor:
    """The hidden states of all tokens (B, T, H), or of the wanted ones (P, H): the vocabulary is a large part of a small model's work."""
    return hidden_states if wanted is None else hidden_states[wanted.bool()]


def _share(labels: LongTensor | None, kwargs: dict[str, Any]) -> Any:
    """The share that this micro-batch has in the labels of a step, in [0, 1]."""
    count = kwargs.get("num_items_in_batch")
    return 1.0 if count is None or labels is None else (labels != -100).sum() / count


def _refuse_decoder(config: MiniTransformerConfig) -> None:
    if config.is_decoder:
        raise ValueError(
            "is_decoder is True, but hidden tokens are found by reading both ways; set is_decoder=False, or use MiniTransformerForCausalLM."
        )


MiniTransformerForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
MiniTransformerForPreTraining.register_for_auto_class("AutoModelForPreTraining")
