"""hflab: recurrent and small Transformer models as first-class Hugging Face citizens.

`import hflab` makes `AutoModelForCausalLM.from_pretrained` and the pipelines of transformers know hflab's model families. The Python equal
of every command is here too: `hflab.train`, `hflab.resume`, `hflab.evaluate`, `hflab.generate`, `hflab.write_card`.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import evaluate, generate, resume, train
    from .errors import UserError
    from .generation.streaming import GenerationOptions
    from .hub.card import write_card
    from .models.recurrent import RecurrentConfig, RecurrentForCausalLM, RecurrentModel
    from .recipe import Recipe, load_recipe

__version__ = "0.1.0"

_PUBLIC = {
    "GenerationOptions": ".generation.streaming",
    "Recipe": ".recipe",
    "RecurrentConfig": ".models.recurrent",
    "RecurrentForCausalLM": ".models.recurrent",
    "RecurrentModel": ".models.recurrent",
    "UserError": ".errors",
    "evaluate": ".api",
    "generate": ".api",
    "load_recipe": ".recipe",
    "resume": ".api",
    "train": ".api",
    "write_card": ".hub.card",
}

__all__ = [
    "GenerationOptions",
    "Recipe",
    "RecurrentConfig",
    "RecurrentForCausalLM",
    "RecurrentModel",
    "UserError",
    "__version__",
    "evaluate",
    "generate",
    "load_recipe",
    "resume",
    "train",
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
