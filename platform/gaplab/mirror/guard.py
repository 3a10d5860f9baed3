"""A program that runs a command, and ends all its processes when the program that started it ends.

Standard input is a pipe that the other program holds open. However that program ends, the pipe is
closed. This program must be the leader of a process group; it is run as a file, without gaplab.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

SECONDS = 10.0
"""Time between SIGTERM and SIGKILL."""


def guard(command: Sequence[str], seconds: float = SECONDS) -> None:
    """Run the command until it ends or standard input is closed, then kill the process group.

    Args:
        command: the command.
        seconds: time that the group has to end by itself once standard input is closed.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)  # sent below to the whole group
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_stop_at_end_of_input, args=[seconds], daemon=True).start()
    child.wait()
    os.killpg(0, signal.SIGKILL)


def _stop_at_end_of_input(seconds: float) -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    time.sleep(seconds)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    guard(sys.argv[1:])
