"""Heads that classify: whole rows, or each of their tokens. Devlin et al. 2019, arXiv:1810.04805, section 3.2.

B: batch, T: time, H: hidden size, C: classes (`num_labels`).
"""

from typing import Any, cast

from torch import LongTensor, Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration_mini_transformer import MiniTransformerConfig
from .modeling_mini_transformer import MiniTransformerModel, MiniTransformerPreTrainedModel
from .pooling_mini_transformer import Pooler


class MiniTransformerForSequenceClassification(MiniTransformerPreTrainedModel):
    """A class, several, or a number for each row, as `problem_type` says; `config.pooling` says what of the row is asked."""

    def __init__(self, config: MiniTransformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = MiniTransformerModel(config)
        self.pooler = Pooler(config)
        self.classifier = nn.Linear(config.hidden_size, cast(int, config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: LongTensor | None = None,
        position_ids: LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Read a batch of rows and classify each.

        Args:
            input_ids: Tokens (B, T).
            attention_mask: (B, T), 1 at real tokens.
            token_type_ids: Segments (B, T).
            position_ids: (B, T).
            inputs_embeds: (B, T, H) instead of tokens.
            labels: (B,) classes or, with one label, numbers; (B, C) of zeros and ones for several classes at once.
            **kwargs: `num_items_in_batch`, the number of labels in all micro-batches of a step, which divides the summed loss instead of the number
                at hand. The rest as in `MiniTransformerModel.forward`.

        Returns:
            `loss` if there are labels, `logits` (B, C), on request `hidden_states` and `attentions`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **({"use_cache": False} if self.config.is_decoder else {}),
            **kwargs,
        )
        pooled = F.dropout(self.pooler(outputs.last_hidden_state, attention_mask), _classifier_dropout(self.config), training=self.training)
        logits = self.classifier(pooled)
        loss = None if labels is None else self._loss(logits, labels, **kwargs)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)

    def _loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: int | Tensor | None = None, **kwargs: Any) -> Tensor:
        # transformers' losses of numbers and of several classes are means that know nothing of other micro-batches: their share is taken here.
        loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, num_items_in_batch=num_items_in_batch)
        if num_items_in_batch is not None and self.config.problem_type != "single_label_classification":
            loss = loss * labels.numel() / num_items_in_batch
        return loss


class MiniTransformerForTokenClassification(MiniTransformerPreTrainedModel):
    """A class for each token."""

    def __init__(self, config: MiniTransformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = MiniTransformerModel(config)
        self.classifier = nn.Linear(config.hidden_size, cast(int, config.num_labels))
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
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Read a batch of rows and classify each token.

        Args:
            input_ids: Tokens (B, T).
            attention_mask: (B, T), 1 at real tokens.
            token_type_ids: Segments (B, T).
            position_ids: (B, T).
            inputs_embeds: (B, T, H) instead of tokens.
            labels: (B, T), each below C; -100 is ignored.
            **kwargs: As in `MiniTransformerForSequenceClassification.forward`.

        Returns:
            `loss` in nats per label if there are labels, `logits` (B, T, C), on request `hidden_states` and `attentions`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **({"use_cache": False} if self.config.is_decoder else {}),
            **kwargs,
        )
        hidden_states = F.dropout(outputs.last_hidden_state, _classifier_dropout(self.config), training=self.training)
        logits = self.classifier(hidden_states)
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)


def _classifier_dropout(config: MiniTransformerConfig) -> float:
    return cast(float, config.classifier_dropout)


MiniTransformerForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
MiniTransformerForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
