"""Settings shared by all tests."""

import sys
from pathlib import Path

# Makes helpers such as `contract` importable from test files in any folder.
sys.path.insert(0, str(Path(__file__).parent))
