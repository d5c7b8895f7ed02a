"""hflab: recurrent and small Transformer models as first-class Hugging Face citizens.

`import hflab` makes `AutoModelForCausalLM.from_pretrained` and the pipelines of transformers know hflab's model families. The Python equal
of every command is here too: `hflab.check_data`, `hflab.train`, `hflab.resume`, `hflab.evaluate`, `hflab.generate`, `hflab.generate_batch`,
`hflab.transcribe`, `hflab.add_language_model`, `hflab.inspect`, `hflab.gradients`, `hflab.probe_memory`, `hflab.effective_memory`,
`hflab.write_card`, `hflab.publish`.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import add_language_model, check_data, evaluate, generate, generate_batch, gradients, inspect, resume, train
    from .errors import UserError
    from .generation.options import GenerationOptions
    from .hub.card import write_card
    from .hub.publishing import PublishOptions
    from .laboratory.effective_memory import ContextOptions
    from .laboratory.gradients import GradientOptions
    from .laboratory.memory import MemoryOptions
    from .laboratory.memory_commands import effective_memory, probe_memory
    from .models.mini_transformer import (
        MiniTransformerConfig,
        MiniTransformerForCausalLM,
        MiniTransformerForConditionalGeneration,
        MiniTransformerForMaskedLM,
        MiniTransformerForPreTraining,
        MiniTransformerForSequenceClassification,
        MiniTransformerForTokenClassification,
        MiniTransformerModel,
    )
    from .models.recurrent import (
        RecurrentConfig,
        RecurrentForCausalLM,
        RecurrentForConditionalGeneration,
        RecurrentForSequenceClassification,
        RecurrentForTokenClassification,
        RecurrentModel,
    )
    from .publication import publish
    from .recipe import Recipe, load_recipe
    from .recognition import TranscribeOptions, transcribe

__version__ = "0.1.0"

_PUBLIC = {
    "ContextOptions": ".laboratory.effective_memory",
    "GenerationOptions": ".generation.options",
    "GradientOptions": ".laboratory.gradients",
    "MemoryOptions": ".laboratory.memory",
    "MiniTransformerConfig": ".models.mini_transformer",
    "MiniTransformerForCausalLM": ".models.mini_transformer",
    "MiniTransformerForConditionalGeneration": ".models.mini_transformer",
    "MiniTransformerForMaskedLM": ".models.mini_transformer",
    "MiniTransformerForPreTraining": ".models.mini_transformer",
    "MiniTransformerForSequenceClassification": ".models.mini_transformer",
    "MiniTransformerForTokenClassification": ".models.mini_transformer",
    "MiniTransformerModel": ".models.mini_transformer",
    "Recipe": ".recipe",
    "RecurrentConfig": ".models.recurrent",
    "RecurrentForCausalLM": ".models.recurrent",
    "RecurrentForConditionalGeneration": ".models.recurrent",
    "RecurrentForSequenceClassification": ".models.recurrent",
    "RecurrentForTokenClassification": ".models.recurrent",
    "RecurrentModel": ".models.recurrent",
    "TranscribeOptions": ".recognition",
    "UserError": ".errors",
    "add_language_model": ".api",
    "check_data": ".api",
    "effective_memory": ".laboratory.memory_commands",
    "evaluate": ".api",
    "generate": ".api",
    "generate_batch": ".api",
    "gradients": ".api",
    "inspect": ".api",
    "load_recipe": ".recipe",
    "probe_memory": ".laboratory.memory_commands",
    "publish": ".publication",
    "PublishOptions": ".hub.publishing",
    "resume": ".api",
    "train": ".api",
    "transcribe": ".recognition",
    "write_card": ".hub.card",
}

__all__ = [
    "ContextOptions",
    "GenerationOptions",
    "GradientOptions",
    "MemoryOptions",
    "MiniTransformerConfig",
    "MiniTransformerForCausalLM",
    "MiniTransformerForConditionalGeneration",
    "MiniTransformerForMaskedLM",
    "MiniTransformerForPreTraining",
    "MiniTransformerForSequenceClassification",
    "MiniTransformerForTokenClassification",
    "MiniTransformerModel",
    "PublishOptions",
    "Recipe",
    "RecurrentConfig",
    "RecurrentForCausalLM",
    "RecurrentForConditionalGeneration",
    "RecurrentForSequenceClassification",
    "RecurrentForTokenClassification",
    "RecurrentModel",
    "TranscribeOptions",
    "UserError",
    "__version__",
    "add_language_model",
    "check_data",
    "effective_memory",
    "evaluate",
    "generate",
    "generate_batch",
    "gradients",
    "inspect",
    "load_recipe",
    "probe_memory",
    "publish",
    "resume",
    "train",
    "transcribe",
    "write_card",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hflab' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name], __name__), name)


# Registering imports torch and transformers, which takes seconds. The command line registers when a command needs models, so that
# `hflab --help` and a misspelt key answer at once; "-m" is what sys.argv holds while `python -m hflab` looks for its module.
if Path(sys.argv[0] if sys.argv else "").name not in {"hflab", "hflab.exe", "-m"}:
    from .models import register_auto_classes

    register_auto_classes()
