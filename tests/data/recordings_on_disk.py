"""Recordings made on the spot: sounds with syllables and pauses, each unlike every other, and tables that name them."""

import csv
import itertools
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
WORDS = ("one", "two", "six", "ten")
TEXTS = [" ".join(words) for words in itertools.permutations(WORDS)]  # 15 characters each
SECONDS = 1.5


def syllables(number, seconds=SECONDS, rate=RATE):
    """Bursts of a tone of its own, 0.12 s each, with pauses of 0.06 s and a trace of noise, (N,) float."""
    generator = np.random.default_rng(number)
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (150 + 10 * number) * time) * ((time % 0.18) < 0.12)
    return tone + 1e-4 * generator.standard_normal(len(time))


class Recordings:
    """A folder with train.csv and validation.csv, which name clips without a fault; more can be added."""

    def __init__(self, folder, num_train=14, num_validation=4):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self.rows = {"train": [], "validation": []}
        for number in range(num_train + num_validation):
            split = "train" if number < num_train else "validation"
            self.add(split, f"{split}_{number}.wav", TEXTS[number], syllables(number), speaker=f"{split} {number % 2}")

    def add(self, split, name, text, sound=None, *, rate=RATE, speaker="", subtype=None):
        """Write a sound, if one is given, and its row; returns the name."""
        if isinstance(sound, bytes):
            (self.folder / name).write_bytes(sound)
        elif sound is not None:
            soundfile.write(self.folder / name, sound, rate, subtype=subtype)
        self.rows[split].append({"audio": name, "text": text, "speaker": speaker})
        for of_split, rows in self.rows.items():
            with (self.folder / f"{of_split}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, ["audio", "text", "speaker"])
                writer.writeheader()
                writer.writerows(rows)
        return name
