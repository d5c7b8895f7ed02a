"""How fast a large file goes to a local Hub and back, and how much memory the server takes for it.

python scripts/benchmark_hub.py --megabytes 1000 --repeats 3

The stock client in a process of its own, through Xet and without, against `hflab hub serve` over the loopback; beside it, in the same round, a plain
copy on the same disk, until the last byte is on it, and a plain HTTP file server (Python's http.server, read by urllib into a file). The bytes are
random, and new in every round, so that nothing is known already. Printed: medians over the rounds, and the largest memory of the server, from the
system; "read by urllib" is the server without the stock client. Needs the extra `hub`, Linux, and a free disk of six times the size.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PIECE = 8 * 1024 * 1024
CLIENT = """
import sys, time
from huggingface_hub import HfApi
action, file, folder = sys.argv[1:]
api = HfApi()
api.create_repo("bench/mark", exist_ok=True)
start = time.perf_counter()
if action == "upload":
    api.upload_file(path_or_fileobj=file, path_in_repo="large.bin", repo_id="bench/mark")
else:
    api.hf_hub_download("bench/mark", "large.bin", local_dir=folder)
print(time.perf_counter() - start)
"""


def write_random(path: Path, megabytes: int) -> None:
    """A file of random bytes, on the disk."""
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
        os.fsync(file.fileno())


def plain_copy(source: Path, target: Path) -> float:
    """Seconds of copying a file in pieces, until it is on the disk."""
    start = time.perf_counter()
    with source.open("rb") as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing, PIECE)
        os.fsync(writing.fileno())
    return time.perf_counter() - start


def plain_download(address: str, target: Path) -> float:
    """Seconds of reading a file from an HTTP server into a file."""
    start = time.perf_counter()
    with urllib.request.urlopen(address) as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing, PIECE)
        os.fsync(writing.fileno())
    return time.perf_counter() - start


def start_server(command: list[str], pattern: str) -> tuple[subprocess.Popen[str], str]:
    """A server and its address, once it has said it."""
    server = subprocess.Popen([sys.executable, "-u", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    found = re.search(pattern, line)
    if found is None:
        raise SystemExit(f"The server did not start: {line}")
    return server, found[1]


def peak_megabytes(process: int) -> float:
    """The most memory that a process has had, in MB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def client(action: str, folder: Path, address: str, **settings: str) -> float:
    """Seconds of an upload or a download by the stock client, in a process with an empty cache."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": home, "HF_TOKEN": "hf_bench", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **settings}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-c", CLIENT, action, str(folder / "large.bin"), str(Path(home) / "got")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        if action == "download":
            subprocess.run(["cmp", str(folder / "large.bin"), str(Path(home) / "got" / "large.bin")], check=True)
    return float(done.stdout)


def one_round(folder: Path, megabytes: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by what was done, and the servers' memory."""
    large, seconds, memory = folder / "large.bin", {}, {}
    write_random(large, megabytes)
    seconds["plain copy"] = plain_copy(large, folder / "copy.bin")
    web, address = start_server(["-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)], r"(http://[\d.:]+)")
    try:
        seconds["plain HTTP file server, download"] = plain_download(f"{address}/large.bin", folder / "copy.bin")
    finally:
        web.terminate()
        web.wait()
    (folder / "copy.bin").unlink()
    for name, settings in {"Xet": {}, "Git-LFS": {"HF_HUB_DISABLE_XET": "1"}}.items():
        root = folder / "hub"
        root.mkdir()
        (root / "tokens").write_text("bench write hf_bench\n", encoding="ascii")
        hub, address = start_server(["-m", "hflab", "hub", "serve", "--root", str(root), "--port", "0"], r"(http://[\d.:]+),")
        try:
            for action in ("upload", "download"):
                seconds[f"hub, {name}, {action}"] = client(action, folder, address, **settings)
            seconds[f"hub, {name}, read by urllib"] = plain_download(f"{address}/bench/mark/resolve/main/large.bin", folder / "copy.bin")
            (folder / "copy.bin").unlink()
            memory[name] = peak_megabytes(hub.pid)
        finally:
            hub.terminate()
            hub.wait()
            shutil.rmtree(root)
    return seconds, memory


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure (default: the system's for temporary files)")
    options = parser.parse_args()
    rounds = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rounds.append(one_round(Path(folder), options.megabytes))
    print(f"{options.megabytes:,} MB, medians of {options.repeats} rounds\n\n| | MB/s | of the copy's | server's peak memory |\n|---|---|---|---|")
    for name in rounds[0][0]:
        speed = statistics.median(options.megabytes / seconds[name] for seconds, _ in rounds)
        ratio = statistics.median(seconds["plain copy"] / seconds[name] for seconds, _ in rounds)
        kind = name.split(", ")[1] if name.startswith("hub") else ""
        peak = f"{statistics.median(memory[kind] for _, memory in rounds):,.0f} MB" if kind else ""
        print(f"| {name} | {speed:,.0f} | {ratio:.2f} | {peak} |")


if __name__ == "__main__":
    main()
