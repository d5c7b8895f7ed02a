"""Lets the tests of this folder share the small models of test_streaming.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
