"""Calls several scripts of this project in one process, so that torch is imported only once.

    python -m benchmarks.gpu.call_scripts '[["sweep", "--help"], ["shift_test", "--help"]]'

The argument is a JSON list with one list per script: its name and its flags. The first script that fails ends the
process with its exit code. The process also ends, with exit code 1, when its standard input is closed. The parent
process holds the other end of that pipe, so a training never outlives its parent, however the parent ends.
"""

import argparse
import json
import os
import sys
import threading

from dl_proj.commands import run_script


def main() -> None:
    """Call the scripts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", type=json.loads, metavar="JSON", help="a list with one list per script")
    scripts = parser.parse_args().scripts
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    for name, *flags in scripts:
        sys.argv = [f"{name}.py", *flags]
        run_script(name)


def _end_with_stdin() -> None:
    while os.read(0, 1024):  # not sys.stdin: this thread would still hold its lock when the interpreter exits
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
