"""Facts about the environment of a run: versions, git state, hardware. Only what a card may say in public: no paths, no host names."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("hflab", "torch", "transformers", "tokenizers", "datasets", "accelerate", "huggingface_hub", "numpy")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # hflab run from its source folder
            continue
    return versions


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository around `folder` and whether tracked files differ from it; None outside a repository."""
    if shutil.which("git") is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit.strip(), "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else None


def hardware_facts(device: torch.device, num_processes: int) -> dict[str, Any]:
    """Device and processor names, CPUs this process may use, and memory in GiB."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0  # Windows has no sysconf
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": name,
        "processor": _processor_name(),
        "num_cpus": cpus,
        "memory_gigabytes": round(pages / 2**30) or None,
        "num_processes": num_processes,
    }


def _processor_name() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
