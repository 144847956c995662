"""A sweep over alpha of the three skills by the product itself: `cli.py merge` with such a recipe does the same.

    python -m benchmarks.sweep --seeds 0

Fine-tunes and Gram matrices are those of `benchmarks.skills`; each merge is evaluated on the test split of each task.
Prints what the report says, and the seconds of it.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.tasks import MAX_LENGTH, SKILL_FAMILY, Run, last
from hub.client import Hub
from jobs.evaluation_words import table
from jobs.local import merge_here
from merging.recipe import recipe_from_dict

ALPHAS = (0, 0.1, 0.5, 0.9, 1)


def swept(run: Run, root: Path) -> dict[str, Any]:
    """The evaluation of a RegMean of the run's models with a sweep over alpha."""
    models, sets = [], []
    for task, grams in zip(run.family.tasks, run.statistics("gram", 600), strict=True):
        rows = [json.dumps({"text": text, "label": label}) for text, label in run.family.rows(task, "test")]
        (root / f"{task}.jsonl").write_text("\n".join(rows))
        model = {"model": str(run.model(task).absolute()), "task": task}
        models.append(model | {"statistics": {"gram": str(grams.absolute())}})
        data = {"data": str(root / f"{task}.jsonl"), "name": task, "in_domain": [task]}
        sets.append(data | {"examples": len(rows), "max_length": MAX_LENGTH, "batch_size": 32})
    sweep = {"parameter": "alpha", "values": ALPHAS}
    recipe = recipe_from_dict({"merge_method": "regmean", "models": models, "evaluate": sets, "sweep": sweep})
    report = last(merge_here(Hub.anonymous(), recipe, root / "out", device="cpu", check=False))
    return dict(report.evaluation)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    for seed in parser.parse_args().seeds:
        with tempfile.TemporaryDirectory() as name:
            began = time.monotonic()
            evaluation = swept(Run(SKILL_FAMILY, seed), Path(name))
            print(f"\nseed {seed}, {time.monotonic() - began:.0f} s, of which {evaluation['seconds']:.0f} s evaluation")
            print("\n".join(table(evaluation)), flush=True)


if __name__ == "__main__":
    main()
