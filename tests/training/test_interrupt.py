"""Signals outside the training loop, where nothing is saved."""

import os
import subprocess
import sys

TWICE = """
import os, signal, sys, time
from concordant.core.errors import STOPPED
from concordant.training.interrupt import interruptible
second = float(sys.argv[1])
try:
    with interruptible():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        finally:  # the end of a verb that takes its time, such as a thread that is waited for
            print("ending", flush=True)
            time.sleep(second)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(STOPPED)
"""


def interrupted_twice(seconds_between):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", TWICE, str(seconds_between)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_a_second_signal_ends_a_command_that_is_ending_at_once():
    done = interrupted_twice(0.7)
    assert (done.returncode, done.stdout) == (1, "ending\n")
    assert done.stderr == "\nended at once; what was saved before is whole\n"


def test_two_signals_together_are_one():
    done = interrupted_twice(0)
    assert (done.returncode, done.stdout, done.stderr) == (3, "ending\ninterrupted\n", "")
