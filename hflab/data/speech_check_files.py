"""What a check of speech data found, as files: `data_check.json` with everything, `left_out.csv` with what training leaves out.

    write_check(found, Path("report"))

Knows nothing about how it was found.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

from ..errors import UserError
from .checked_clips import CheckedClip
from .speech_check import SpeechCheck
from .speech_problems import PROBLEMS

JSON_NAME, CSV_NAME = "data_check.json", "left_out.csv"


def write_check(found: SpeechCheck, folder: Path) -> list[Path]:
    """Write both files into `folder`, which is made if need be; return them. Raises `UserError` if they cannot be written."""
    contents = {JSON_NAME: json.dumps(check_facts(found), ensure_ascii=False, indent=2, allow_nan=False) + "\n", CSV_NAME: _left_out_table(found)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            # names of files need not be UTF-8
            (folder / name).write_text(content, encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise UserError(f"The report cannot be written into {str(folder)!r}: {error.strerror}; give another --report FOLDER.") from None
    return [folder / name for name in contents]


def check_facts(found: SpeechCheck) -> dict[str, Any]:
    """All that was found, as JSON."""
    return {
        "name": found.name,
        "origin": found.origin,
        "normalizer": found.normalizer,
        "sampling_rate": found.sampling_rate,
        "usual_characters_per_second": found.usual_speeds and [round(limit, 3) for limit in found.usual_speeds],
        "has_problems": found.has_problems,
        "splits": {
            name: {**size._asdict(), **{key: round(getattr(size, key), 3) for key in ("seconds", "median_seconds", "longest_seconds")}}
            for name, size in found.splits.items()
        },
        "stored_as": [{**stored._asdict(), "clips": clips} for stored, clips in found.stored_as.items()],
        "problems": {
            name: {
                "title": PROBLEMS[name].title,
                "kind": PROBLEMS[name].kind,
                "cure": PROBLEMS[name].cure,
                "count": len(findings),
                "share": round(len(findings) / len(found.clips), 6),
                "clips": [{**_named(finding.clip), "why": finding.why} for finding in findings],
            }
            for name, findings in found.findings.items()
        },
        "left_out": [
            {**_named(clip), "reason": reason, "seconds": round(clip.seconds, 3), "text": clip.given_text} for clip, reason in found.left_out
        ],
        "unlisted_sounds": found.unlisted_sounds,
    }


def _named(clip: CheckedClip) -> dict[str, str]:
    return {"split": clip.split, "clip": clip.name, "file": clip.file}


def _left_out_table(found: SpeechCheck) -> str:
    """A row for each training clip that is not learnt from."""
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["clip", "file", "reason", "seconds", "text"])
    writer.writerows([clip.name, clip.file, reason, f"{clip.seconds:.3f}", clip.given_text] for clip, reason in found.left_out)
    return table.getvalue()
