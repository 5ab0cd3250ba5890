"""That a chart's ten reads may be the first of their process."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "support" / "first_decodes.py"


def test_many_threads_may_be_the_first_to_decode_once_the_types_are_ready():
    """Without that, msgspec 0.22 crashes about every fourth such process: `first_decodes.py unready`."""
    done = subprocess.run([sys.executable, SCRIPT, "ready"], capture_output=True, text=True, check=True)
    assert done.stdout == "0"
