"""What the benchmark scripts share: the machine, worker processes, results."""

import sys
from pathlib import Path

# They are run as scripts: Python finds what lies beside them, and not what lies beside their folder.
sys.path.append(str(Path(__file__).parents[2] / "machine_code"))
