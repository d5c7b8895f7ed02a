"""The rules of who may import whom, held against the code; and that saved model code can stand alone."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hflab"
ANYTHING = {
    "api",
    "cli",
    "data",
    "errors",
    "evaluation",
    "generation",
    "hub",
    "inspection",
    "cli_gradients",
    "cli_memory",
    "cli_speech",
    "language_models",
    "measuring",
    "terminal",
    "recognition",
    "recognition_report",
    "models",
    "recipe",
    "run_folder",
    "speech",
    "summaries",
    "transcription",
}
ANYTHING |= {"laboratory", "measuring", "publication", "training"}
COMMANDS = {part for part in ANYTHING if part.startswith("cli")}
# part of hflab -> the parts it may import; the way of a run goes in one direction
ALLOWED = {
    "__init__": ANYTHING,
    "__main__": {"cli"},
    "api": ANYTHING - COMMANDS - {"summaries"},
    "cli": ANYTHING,
    "cli_gradients": {"api", "laboratory", "terminal"},
    "cli_memory": {"laboratory", "terminal", "errors"},
    "cli_speech": ANYTHING - {"cli"},
    "recognition": {"measuring", "transcription", "speech", "errors"},
    "recognition_report": {"measuring", "training", "evaluation", "data", "speech"},
    "language_models": {"measuring", "training", "evaluation", "data", "speech", "run_folder", "errors"},
    "summaries": {"data", "evaluation", "hub", "run_folder", "training"},
    "errors": set(),
    "terminal": set(),
    "recipe": {"errors"},
    "run_folder": {"errors", "recipe"},
    "speech": {"speech", "errors"},  # sound and transcripts, nothing about models
    "data": {"data", "speech", "errors", "recipe"},
    "models": {"models", "errors"},
    "evaluation": {"evaluation", "data", "speech", "errors", "recipe"},  # which figures a model is measured by follows from its recipe
    "generation": {"generation", "evaluation", "data", "errors"},
    "transcription": {"transcription", "evaluation", "data", "speech", "errors"},
    "measuring": {"training", "models", "speech", "evaluation", "data", "recipe", "run_folder", "errors"},
    "publication": {"measuring", "hub", "recipe", "run_folder", "errors"},
    "inspection": {"inspection", "evaluation", "data", "models", "errors"},
    # what the laboratory measures it trains and evaluates as everybody does; nothing but commands knows it
    "laboratory": ANYTHING - COMMANDS - {"api", "hub", "publication", "summaries", "transcription", "recognition", "recognition_report"},
    "training": {"training", "data", "models", "evaluation", "generation", "speech", "errors", "recipe", "run_folder"},
    "hub": {"hub", "evaluation", "speech", "recipe", "run_folder", "errors"},
}
MODEL_PACKAGES = {"torch", "transformers", "huggingface_hub", "numpy"}  # transformers needs numpy itself
STANDARD = sys.stdlib_module_names


def imports_of(file):
    """(level, module, line) of every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield node.level, name, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, node.lineno


def parts_imported(file):
    """Parts of hflab that `file` imports."""
    depth = len(file.relative_to(PACKAGE).parts)
    for level, module, _ in imports_of(file):
        if level == 0 and module.split(".")[0] == "hflab":
            yield [*module.split("."), "__init__"][1]
        elif level == depth:
            yield module.split(".")[0]
        elif 0 < level < depth:
            yield file.relative_to(PACKAGE).parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_part_has_a_rule():
    parts = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES}
    assert parts == set(ALLOWED)
    assert len(FILES) > 25


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_follow_the_rules(file):
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert set(parts_imported(file)) - ALLOWED[part] - {"__init__", "__version__"} == set()


MODEL_FILES = [file for file in FILES if file.parent.parent.name == "models" and file.name != "__init__.py"]


@pytest.mark.parametrize("file", MODEL_FILES, ids=lambda file: file.name)
def test_model_code_imports_only_what_a_process_without_hflab_has(file):
    for level, module, line in imports_of(file):
        if level:
            assert level == 1, f"{file.name}:{line} imports outside its folder"
            assert (file.parent / f"{module}.py").is_file(), f"{file.name}:{line}: save_pretrained copies only `from .sibling import name`"
        else:
            is_standard = module.split(".")[0] in STANDARD
            assert is_standard or module.split(".")[0] in MODEL_PACKAGES, f"{file.name}:{line} imports {module}"


def test_what_is_found_in_a_model_is_drawn_without_the_model():
    """Pictures and page are made from numbers alone: neither they nor what they import import torch, transformers or the reading of a model."""
    drawing = {"maps", "fonts", "pictures", "page", "writing"}
    for name in sorted(drawing):
        modules = {module for level, module, _ in imports_of(PACKAGE / "inspection" / f"{name}.py")}
        assert not modules & {"torch", "transformers", "reading", "states", "loading"}, name


def test_model_files_have_distinct_names():
    assert len(MODEL_FILES) >= 5
    assert len({file.name for file in MODEL_FILES}) == len(MODEL_FILES)
