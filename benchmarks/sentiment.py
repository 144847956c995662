"""Three models of one label set, each for its own domain, in one: parents, ensemble, average, Fisher and RegMean.

    python -m benchmarks.sentiment --seeds 0 1 2 3 4 --alpha 0.1 0.5 0.9 1.0

As `benchmarks.skills`, for reviews of phones, films and restaurants (`demo/data/sentiment`); kept in `.demo/sentiment`.
The heads agree, so there is one merged model, evaluated on every domain.
"""

from benchmarks.comparison import main
from benchmarks.tasks import DOMAIN_FAMILY

if __name__ == "__main__":
    main(DOMAIN_FAMILY, __doc__)
