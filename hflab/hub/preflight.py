"""What is looked at before anything leaves the machine: each refusal says what was found, where, and what to do.

    problems = check_model(Path("runs/NAME/model"), data_license="cc-by-sa-4.0")

Only files are read here; that a model computes the same in a clean process is `verification.py`. Errors forbid publishing, warnings are shown. A
secret is never repeated in a message.
"""

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

MODEL_PACKAGES = {"huggingface_hub", "numpy", "safetensors", "tokenizers", "torch", "transformers"}  # that every process which loads a model has
# of Python: what computes and touches neither files, network nor processes
# fmt: off
COMPUTING_MODULES = {
    "__future__", "abc", "array", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses", "decimal", "difflib", "enum", "fractions",
    "functools", "hashlib", "heapq", "inspect", "itertools", "json", "logging", "math", "numbers", "operator", "random", "re", "statistics",
    "string", "struct", "textwrap", "time", "types", "typing", "unicodedata", "warnings",
}
# fmt: on
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "open", "input"}
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".h5")
# names of files that a model repository has, beside the modules that its config names
KNOWN_FILES = re.compile(
    r"""(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|preprocessor_config|processor_config)\.json
    |model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|adapter_model\.safetensors|merges\.txt|vocab\.(txt|bpe)|(tokenizer|spiece|sentencepiece\.bpe)\.model
    |chat_template\.jinja|sample\.wav|ctc_decoder\.json|language_model\.arpa\.gz
    |README\.md|LICENSE(\.txt|\.md)?|NOTICE|recipe\.yaml|learning_curve\.png|\.gitattributes|\.eval_results/[\w.-]+\.yaml|figures/[\w.-]+\.(png|html)""",
    re.VERBOSE,
)
SECRETS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "a Slack token": re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{10,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
# what a corpus may well say without giving anything away
SUSPICIONS = {
    "a password": re.compile(r"""(?i)\b(?:password|passwd|secret|api_?key|access_?token)\b["']?\s*[:=]\s*["'][^"'\s]{8,}["']"""),
    "credentials in an address": re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s:@]+@"),
    "a path of this machine": re.compile(r"(?:(?<![\w.:/])/(?:home|Users|root|mnt|data|scratch|workspace)/[\w.-]+/|\b[A-Z]:\\Users\\)"),
}
CODE_BLOCK = re.compile(r"^(`{3,})[^\n]*\n.*?\n\1$", re.MULTILINE | re.DOTALL)
PLACEHOLDERS = re.compile(r"\[More Information Needed\]|\bTODO\b|\bFIXME\b|\{\{.*?\}\}|<your[- _][^>]*>|\blorem ipsum\b", re.IGNORECASE)
MOST_TEXT_BYTES = 20_000_000  # of a file that is searched for secrets; weights are no text


class Problem(NamedTuple):
    """Something that forbids publishing, or is to be known."""

    file: str
    message: str
    cure: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.file}: {self.message}; {self.cure}."


def check_model(folder: Path, data_license: str | None) -> list[Problem]:
    """All that is wrong with a model folder; `data_license` is that of what the model learnt from, None where it is not known."""
    files = dict(files_of(folder))
    modules = _modules(folder)
    problems: list[Problem] = []
    for name, path in files.items():
        safe, known = _check_safe(folder, name, path), KNOWN_FILES.fullmatch(name) or name in modules
        problems += safe
        if not safe and not known:
            problems.append(Problem(name, "this is no file of a model", "remove it"))
        problems += _check_text(name, path)
    problems += _check_code(folder, modules)
    problems += _check_adapter(folder)
    problems += _check_card(folder, data_license)
    if not any(name in files for name in ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")):
        problems.append(Problem("model.safetensors", "there are no weights", "publish the model folder of a run, or one that save_pretrained wrote"))
    return problems


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file that would go, by its path in the repository; what git and huggingface_hub keep for themselves does not go.

    Links to folders are given as files, since they are not followed.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.is_symlink() or not path.is_dir()) and not name.startswith((".cache/", ".git/")):
            yield name, path


def check_dataset(folder: Path) -> list[Problem]:
    """All that is wrong with a folder of data."""
    problems: list[Problem] = []
    for name, path in files_of(folder):
        problems += _check_safe(folder, name, path)
        if name.endswith(".py"):
            problems.append(Problem(name, "data sets bring no code since datasets 4", "write the data as Parquet, JSON lines or CSV, and remove it"))
        problems += _check_text(name, path, is_data=name != "README.md")
    problems += _check_card(folder, "")
    if all(name in ("README.md", ".gitattributes", "LICENSE") for name, _ in files_of(folder)):
        problems.append(Problem(str(folder), "there are no data", "put Parquet, JSON lines, CSV or text files here"))
    return problems


def check_card_text(path: Path) -> list[Problem]:
    """Secrets and placeholders in a file of text that is to be read by everybody."""
    return [*_check_text(path.name, path), *(_check_placeholders(path) if path.suffix == ".md" else [])]


def _check_safe(folder: Path, name: str, path: Path) -> list[Problem]:
    """What forbids a file whatever it is for."""
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        return [Problem(name, "this link leads out of the folder", "put the file itself here, or remove the link")]
    if not path.is_file():
        return [Problem(name, "this is no regular file", "remove it")]
    if path.name == "training_args.bin":
        return [Problem(name, "this is a pickle, into which transformers' Trainer writes the Hub token", "remove it")]
    if name.endswith(PICKLE_ENDINGS) or _is_pickle(path):
        cure = "remove it; weights go into safetensors: model.save_pretrained(FOLDER)"
        return [Problem(name, "this can be a pickle, which runs code when it is opened", cure)]
    if path.name.startswith(".env"):
        return [Problem(name, "such files hold secrets", "remove it")]
    return []


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80" and len(start) > 1 and 2 <= start[1] <= 5:
        return True
    if start != b"PK\x03\x04":
        return False
    try:
        return any(name.endswith((".pkl", ".pickle")) for name in zipfile.ZipFile(path).namelist())
    except zipfile.BadZipFile:
        return False


def _check_text(name: str, path: Path, *, is_data: bool = False) -> Iterator[Problem]:
    if name == "tokenizer.json" or not path.is_file() or path.stat().st_size > MOST_TEXT_BYTES:
        return  # a vocabulary has all kinds of words in it
    content = path.read_bytes()
    if b"\0" in content[:8192]:
        return
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        for kind, pattern in (SECRETS | SUSPICIONS).items():
            if pattern.search(line):
                cure = "take it out; a secret that was published before must be revoked"
                yield Problem(name, f"line {number} looks like {kind}", cure, is_error=kind in SECRETS or not is_data)


def _check_adapter(folder: Path) -> Iterator[Problem]:
    base = _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if isinstance(base, str) and (Path(base).is_absolute() or base.startswith(("~", ".")) or base.count("/") > 1):
        yield Problem("adapter_config.json", "the base model is a folder of this machine", "publish that first, and train the adapter on its id")


def _modules(folder: Path) -> set[str]:
    """The Python files that the config's `auto_map` names, and those that they import from beside them."""
    wanted: list[str] = []
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        auto_map = _read_json(folder / file).get("auto_map")
        for value in auto_map.values() if isinstance(auto_map, dict) else ():
            for reference in value if isinstance(value, list) else [value]:
                if isinstance(reference, str) and "--" not in reference:
                    wanted.append(reference.split(".")[0])
    found: set[str] = set()
    while wanted:
        name = f"{wanted.pop()}.py"
        if name not in found and (folder / name).is_file():
            found.add(name)
            wanted += [module for level, module, _ in _imports(folder / name) if level]
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _imports(path: Path) -> Iterator[tuple[int, str, int]]:
    """(level, module, line) of every import; nothing for what is no Python."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for module in [node.module] if node.module else [alias.name for alias in node.names]:
                yield node.level, module.split(".")[0], node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name.split(".")[0], node.lineno


def _check_code(folder: Path, modules: set[str]) -> Iterator[Problem]:
    for name in sorted(modules):
        try:
            tree = ast.parse((folder / name).read_text("utf-8"))
        except (SyntaxError, ValueError) as error:
            yield Problem(name, f"this is no Python: {error}", "save the model again")
            continue
        for level, module, line in _imports(folder / name):
            if level > 1 or (level == 1 and not (folder / f"{module}.py").is_file()):
                yield Problem(name, f"line {line} imports {module!r}, which is not in the folder", "save the model again, by save_pretrained")
            elif not level and module not in MODEL_PACKAGES | COMPUTING_MODULES:
                cure = f"model code may import {', '.join(sorted(MODEL_PACKAGES))} and those modules of Python that only compute"
                yield Problem(name, f"line {line} imports {module!r}", cure)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
                yield Problem(name, f"line {node.lineno} calls {node.func.id}", "model code computes, and touches nothing else")


def _check_card(folder: Path, data_license: str | None) -> Iterator[Problem]:
    path = folder / "README.md"
    if not path.is_file():
        yield Problem("README.md", "there is no card", "write it: hflab card RUN")
        return
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError as error:
        yield Problem("README.md", f"this is no UTF-8 at byte {error.start}", "save it as UTF-8")
    yield from _check_placeholders(path)
    license_name = _card_metadata(path.read_text("utf-8", "replace")).get("license")
    if not isinstance(license_name, str) or not license_name:
        cure = "name it in the card's metadata; that of a run comes from publish.license of its recipe.yaml, by `hflab card RUN`"
        yield Problem("README.md", "the metadata name no licence", cure)
    elif data_license is None:
        yield Problem("README.md", "the licence of the data is not known", "set data.license in the recipe if you know it", is_error=False)
    elif conflict := license_conflict(license_name, data_license):
        yield Problem("README.md", *conflict)


def _check_placeholders(path: Path) -> Iterator[Problem]:
    text = path.read_text("utf-8", "replace")
    prose = CODE_BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)  # samples of data are shown in blocks, whatever they say
    for number, line in enumerate(prose.splitlines(), 1):
        if match := PLACEHOLDERS.search(line):
            yield Problem(path.name, f"line {number} has the placeholder {match[0]!r}", "replace it by what is true, or remove it")


def _card_metadata(text: str) -> dict[str, Any]:
    parts = re.match(r"---\n(.*?)\n---\s*\n", text.replace("\r\n", "\n"), re.DOTALL)
    try:
        metadata = yaml.safe_load(parts[1]) if parts else None
    except yaml.YAMLError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def license_conflict(model: str, data: str) -> tuple[str, str] | None:
    """Why a model under the licence `model` may not be made of data under `data` (SPDX ids), and what to do; None where it may.

    A cautious reading, no legal advice: whether a model is an adaptation of its data at all is disputed. Creative Commons' conditions are taken by
    their names: nd forbids adaptations, nc commerce.
    """
    model, data = model.lower(), data.lower()
    terms = data.split("-") if data.startswith("cc-") else []
    if "nd" in terms:
        return f"the data are under {data}, which forbids to publish what is made of them", "train on data whose licence allows it"
    if "nc" in terms and "nc" not in model.split("-"):
        cure = f"set publish.license in the run's recipe.yaml to one that does not, such as {data}, and write the card again: hflab card RUN"
        return f"the data are under {data}, not for commerce, and {model} allows commerce", cure
    return None
