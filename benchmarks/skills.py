"""How much of three skills survives a merge: parents, average, Fisher and RegMean over several seeds.

    python -m benchmarks.skills --seeds 0 1 2 3 4 --rate 1 2 4 --alpha 0.1 0.5 0.9 1.0

For each seed and learning rate: fine-tunes the three demo models (kept in `.demo/skills`), collects their statistics
from unlabelled training texts, merges them by the product's engine from recipes, and evaluates every task's output on
its test split. Prints accuracy in percent, mean ± standard deviation over the seeds.
"""

from benchmarks.comparison import main
from benchmarks.tasks import SKILL_FAMILY

if __name__ == "__main__":
    main(SKILL_FAMILY, __doc__)
