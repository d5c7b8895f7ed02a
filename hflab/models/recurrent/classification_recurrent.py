"""Recurrent models with a classifier: of a whole row, and of each of its tokens.

    model = RecurrentForSequenceClassification(RecurrentConfig(bidirectional=True, pooling="max", num_labels=3))
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels)      # loss, logits (B, num_labels)

The loss is transformers' own, chosen by the config's `problem_type`, which the first labels settle where it is None. Padding is what the attention
mask says and nothing else: no token id is taken for padding. Knows nothing about label names and tokenization.

B: batch, T: time, E: embedding size, L: number of labels.
"""

from typing import Any, cast

from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration_recurrent import RecurrentConfig
from .modeling_recurrent import RecurrentModel, RecurrentPreTrainedModel, columns_of_call
from .pooling_recurrent import POOLING, output_width, pooled_width


class RecurrentForSequenceClassification(RecurrentPreTrainedModel):
    """One answer for a whole row: `RecurrentModel`, pooling over time, and a linear layer.

    Reading both ways and taking the maximum over time is the sentence encoder of Conneau et al. 2017, arXiv:1705.02364, section 3.2.
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = RecurrentModel(self.config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(pooled_width(config), cast(int, config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Read a batch of rows and classify each.

        Args:
            input_ids: Tokens (B, T); or give `inputs_embeds`.
            attention_mask: (B, T), 1 at real tokens and 0 at padding, in any pattern; None: all tokens are real.
            inputs_embeds: Embeddings (B, T, E) instead of tokens.
            labels: (B,) of numbers from 0 to L - 1 for one label a row (-100 is ignored), (B, L) of zeros and ones as floats for any number of
                labels a row, (B,) or (B, L) of floats for regression.
            **kwargs: `num_items_in_batch`, the number of labels in all micro-batches of a step, which divides the summed loss instead of the number
                at hand. The rest as in `RecurrentModel.forward`.

        Returns:
            `loss` if there are labels, `logits` (B, L), on request `hidden_states`.
        """
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **{"use_cache": False} | kwargs)
        hidden_states = outputs.last_hidden_state
        pooled = POOLING[self.config.pooling](hidden_states, columns_of_call(attention_mask, hidden_states), self.config)
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else self._loss(logits, labels, **kwargs)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    def _loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        count = kwargs.get("num_items_in_batch")
        if count is None or self.config.problem_type == "single_label_classification":
            return loss
        return loss * (labels.numel() / count)  # transformers' loss has only that one problem type heed the count


class RecurrentForTokenClassification(RecurrentPreTrainedModel):
    """One answer for each token: `RecurrentModel` and a linear layer at every time step."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = RecurrentModel(self.config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(output_width(config), cast(int, config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Read a batch of rows and classify every token.

        Args:
            input_ids: Tokens (B, T); or give `inputs_embeds`.
            attention_mask: (B, T), 1 at real tokens and 0 at padding, in any pattern; None: all tokens are real.
            inputs_embeds: Embeddings (B, T, E) instead of tokens.
            labels: (B, T) of numbers from 0 to L - 1; -100 is ignored, and belongs at padding.
            **kwargs: `num_items_in_batch`, the number of labels in all micro-batches of a step, which divides the summed loss instead of the number
                at hand. The rest as in `RecurrentModel.forward`.

        Returns:
            `loss` in nats per label if there are labels, `logits` (B, T, L), on request `hidden_states`.
        """
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **{"use_cache": False} | kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


RecurrentForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
RecurrentForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
