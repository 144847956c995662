"""How a child process begins: `python -m jobs.begin MODULE FOLDER PARENT_PID LIFELINE`.

It is tied to its worker before it imports what takes seconds, for a worker may be killed in these. MODULE holds the
stages, as `TABLE`.
"""

import importlib
import sys

from jobs.child import tie_to_worker

if __name__ == "__main__":
    module, folder, parent, lifeline = sys.argv[1:]
    tie_to_worker(int(parent), int(lifeline))
    serve = importlib.import_module("jobs.stage").serve
    serve(folder, importlib.import_module(module).TABLE)
