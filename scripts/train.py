"""Train a recipe under `accelerate launch`; the same as `hflab train`.

accelerate launch --num_processes 2 scripts/train.py char_lstm_shakespeare --training.mixed_precision bf16
"""

import sys

from hflab.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
