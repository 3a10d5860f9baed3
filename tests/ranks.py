"""Run `main(rank, size, folder)` of a program in two processes: `python ranks.py PROGRAM FOLDER`.

The processes are forked from one that has imported everything, which takes seconds.
"""

import importlib
import importlib.util
import os
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType

SIZE = 2


def imported(program: Path) -> ModuleType:
    """Import a program, and what PyTorch imports when the first optimizer is made."""
    importlib.import_module("torch._dynamo")
    spec = importlib.util.spec_from_file_location("program", program)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forked(module: ModuleType, rank: int, folder: Path) -> int:
    """Start a rank and return its process id; the rank itself never returns."""
    if process := os.fork():
        return process
    code = 1
    try:
        module.main(rank, SIZE, folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> int:
    """Return 0 if all ranks succeed. If one fails, end the others, which would wait for it."""
    module, folder = imported(Path(sys.argv[1])), Path(sys.argv[2])
    running, failed = {forked(module, rank, folder) for rank in range(SIZE)}, 0
    while running:
        ended, status = os.wait()
        running.discard(ended)
        if status:
            failed = 1
            for each in running:
                os.kill(each, signal.SIGKILL)
    return failed


if __name__ == "__main__":
    sys.exit(main())
