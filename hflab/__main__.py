"""`python -m hflab`, and `accelerate launch -m hflab`: the command line without its script."""

import sys

from .cli import main

sys.exit(main())
