"""Model folders with damaged or hostile files, as ``python -m bench.fuzz_models`` makes them."""

import os
import subprocess
import sys


def test_a_few_hostile_folders_show_no_traceback_and_no_hang():
    """In a process of its own, because it forks."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.fuzz_models", "--folders", "3", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 folders, 6 runs" in done.stdout and "0 problems" in done.stdout
