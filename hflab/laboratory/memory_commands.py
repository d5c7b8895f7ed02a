"""The Python equals of `hflab memory`: a study of probe tasks, and the effective memory of a language model, each with its report.

study = probe_memory(["parity"], MemoryOptions(cells=("rnn", "lstm")))
found = effective_memory("runs/bpe_lstm_shakespeare")
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import UserError
from ..measuring import open_model, shown_name
from .effective_memory import ContextOptions, EffectiveMemory, measure_context_use
from .effective_memory_report import write_context_report
from .memory import MemoryOptions, MemoryStudy, study_memory
from .memory_report import write_memory_report


def probe_memory(
    tasks: Sequence[str],
    options: MemoryOptions | None = None,
    *,
    output: str | Path = "memory",
    command: str = "",
    say: Callable[[str], None] | None = None,
) -> MemoryStudy:
    """Train small models of equal size on tasks that only memory solves, test them on longer rows, and write a report.

    Args:
        tasks: Names of tasks, keys of `hflab.laboratory.probe_tasks.PROBES`, at least one.
        options: Models, lengths, seeds and costs; default: as `MemoryOptions` has it.
        output: Folder of the report (`memory.md`, `memory.json`, `memory.png`) and of finished trainings (`runs/`), which are not repeated.
        command: What to start to have the report again; default: this call.
        say: Is told of each finished training in a line.

    Raises:
        UserError: a name that does not exist, a number out of range, no model of the wanted size, or a folder that cannot be written.
        KeyboardInterrupt: stopped; its text says how to go on.
    """
    study = study_memory(tasks, options or MemoryOptions(), Path(output), say=say)
    write_memory_report(study, Path(output), command=command or f"hflab.probe_memory({list(tasks)!r}, {study.options!r})")
    return study


def effective_memory(
    model: str | Path,
    data: str | None = None,
    *,
    split: str = "validation",
    options: ContextOptions | None = None,
    output: str | Path | None = None,
    trust_remote_code: bool = False,
) -> EffectiveMemory:
    """How many tokens of context a causal language model uses; Khandelwal et al. 2018, arXiv:1805.04623, see `effective_memory.py`.

    Args:
        model: Run folder, model folder or Hub id.
        data: Name of a source, or a file or folder of text, all of which is then used; default: the data the model was trained on.
        split: Split of the model's own data: validation, test or train.
        options: Context and number of targets; default: as `ContextOptions` has it.
        output: Folder for the report (`effective_memory.md`, `.json`, `.png`); None: no report.
        trust_remote_code: Run the code that comes with a model of another family.

    Raises:
        UserError: there is no such model, split or data; the model is of another task; a number is out of range; no document of the text is long
            enough; or the folder cannot be written into.
    """
    opened = open_model(model, data, split=split, trust_remote_code=trust_remote_code)
    task = opened.task
    if task.recipe.task != "causal_lm":
        raise UserError(f"The model {str(model)!r} was trained for {task.recipe.task}; give a causal language model, trained for causal_lm.")
    tokens = task.prepared.splits[opened.split].tokens
    found = measure_context_use(opened.model, tokens, task.tokenizer.eos_token_id, options or ContextOptions())
    about = f"the {opened.split} split" if data is None else Path(data).name
    found = dataclasses.replace(found, about=f"{shown_name(model)} on {about}")
    if output is not None:
        write_context_report(found, Path(output))
    return found
