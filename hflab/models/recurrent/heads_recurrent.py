"""The heads of the recurrent family by what their class names end in.

A head is a class, a line here and a line in AUTO_MAP of `configuration_recurrent.py`.
"""

from .classification_recurrent import RecurrentForSequenceClassification, RecurrentForTokenClassification
from .ctc_recurrent import RecurrentForCTC
from .modeling_recurrent import RecurrentForCausalLM, RecurrentModel, RecurrentPreTrainedModel
from .seq2seq_recurrent import RecurrentForConditionalGeneration

HEADS: dict[str, type[RecurrentPreTrainedModel]] = {
    "Model": RecurrentModel,
    "ForCausalLM": RecurrentForCausalLM,
    "ForSequenceClassification": RecurrentForSequenceClassification,
    "ForTokenClassification": RecurrentForTokenClassification,
    "ForConditionalGeneration": RecurrentForConditionalGeneration,
    "ForCTC": RecurrentForCTC,
}
