"""A warning for a learning rate at which a pretrained model forgets what it knew."""

import logging

from torch import nn
from transformers import PreTrainedModel

from ..recipe import Recipe

logger = logging.getLogger(__name__)

# Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", arXiv:1905.05583: at 4e-4 BERT-base forgot what it had learned
# and its training did not converge; at 2e-5 it kept it. Smaller models bear more, but few bear more than they were themselves trained with.
FORGETTING_RATE = 4e-4
FORGETTING_RATE_OF_SMALL_MODELS = 1e-3
SMALL_MODEL = 50_000_000  # parameters; BERT-base has 110 million
ADAPTIVE_OPTIMIZERS = ("adam", "lamb", "nadam", "radam")  # the rate of others is on another scale


def warn_of_forgetting(model: PreTrainedModel, recipe: Recipe) -> None:
    """Log a warning when `recipe` trains the body of a pretrained Transformer by AdamW at a rate that is likely to undo its pre-training.

    Silent for adapters, for frozen bodies and for models without attention.
    """
    rate = recipe.training.learning_rate
    if recipe.model.pretrained is None or recipe.model.lora is not None or not recipe.training.optimizer.lower().startswith(ADAPTIVE_OPTIMIZERS):
        return
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    small = num_parameters < SMALL_MODEL
    bearable = rate <= FORGETTING_RATE_OF_SMALL_MODELS if small else rate < FORGETTING_RATE
    if bearable or not _has_attention(model) or not _trains_body(model):
        return
    logger.warning(
        "training.learning_rate is %g, at which a pretrained Transformer of %s parameters is likely to forget what it knew (Sun et al. 2019, "
        "arXiv:1905.05583: BERT-base did at 4e-4, and not at 2e-5); try 2e-5 to 1e-4, or train less of it: model.lora, model.freeze.",
        rate,
        f"{num_parameters:,}",
    )


def _has_attention(model: PreTrainedModel) -> bool:
    return getattr(model.config, "num_attention_heads", None) is not None  # transformers' name in the config of every model with attention


def _trains_body(model: nn.Module) -> bool:
    """Whether most of the weights are trained."""
    parameters = list(model.parameters())
    return 2 * sum(parameter.numel() for parameter in parameters if parameter.requires_grad) > sum(parameter.numel() for parameter in parameters)
