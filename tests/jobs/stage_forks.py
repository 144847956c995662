"""The real stage process, started again and again for less: what it imports is imported once, then it is forked.

`stage_forks.py SHARD_BYTES`, then lines on stdin, each {"stage", "folder", "request"}. For each there is a process as
the worker starts it, in a group of its own; its number is printed at once, and its exit status when it has ended.
"""

import json
import os
import sys

import hub.feed
import merging.engine
import merging.methods.average
import merging.steps
from jobs import stage
from jobs.table import TABLE

assert hub.feed
assert merging.engine


def main() -> None:
    """Serve until stdin ends."""
    merging.steps.SHARD_BYTES = int(sys.argv[1])
    while line := sys.stdin.readline():
        order = json.loads(line)
        theirs, ours = os.pipe()
        lifeline, held = os.pipe()
        me, child = os.getpid(), os.fork()
        if child == 0:
            os.close(ours)
            os.close(held)
            os.setsid()
            os.dup2(theirs, 0)
            sys.stdin = os.fdopen(0)
            os.dup2(2, 1)  # its answers
            stage.main([order["folder"], str(me), str(lifeline)], TABLE)
        os.close(theirs)
        os.close(lifeline)
        os.write(ours, json.dumps({"stage": order["stage"], **order["request"]}).encode() + b"\n")
        os.close(ours)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        os.close(held)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
