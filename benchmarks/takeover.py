"""How long the job of a killed worker waits for another one, on Postgres: `python -m benchmarks.takeover --times 5`.

Two workers that look for dead ones as often as in production; the one with the job is killed at a random moment.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

from jobs.service import JobService
from jobs.worker import REAP_EVERY
from tests.jobs.processes import Workers, ended, in_merge, queue, trace, wait_for
from tests.postgres import running_postgres


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["WORKER_REAPS_EVERY"] = str(REAP_EVERY)
    chance, waited = random.Random(arguments.seed), []
    with running_postgres() as server, tempfile.TemporaryDirectory() as name:
        workers = Workers(Path(name), server.database())
        service = JobService(workers.settings)
        running = {slot: workers.start(slot) for slot in (0, 1)}
        for number in range(arguments.times):
            id = queue(service, f"job{number}", tenths=300)
            in_merge(workers, id)
            slot = int(service.log(id, "ann")[0]["message"].rpartition(":")[2])
            time.sleep(chance.uniform(0, REAP_EVERY))
            running[slot].kill()
            began = time.monotonic()
            wait_for(lambda id=id: trace(workers.home, id).count("merge") == 2, 60, 0.01)
            waited.append(time.monotonic() - began)
            service.cancel(id, "ann")
            ended(service, id)
            running[slot] = workers.start(slot)
        service.close()
        workers.stop()
    print(f"taken over after {', '.join(f'{seconds:.1f}' for seconds in waited)} s; looks every {REAP_EVERY:.0f} s")


if __name__ == "__main__":
    main()
