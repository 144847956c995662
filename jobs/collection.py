"""Statistics of a model on this disk from the text that a wish names: for a merge, a statistics job and the shell."""

import os
from collections.abc import Generator
from pathlib import Path

from hub.client import Hub
from hub.datasets import is_local, load_rows
from merging.progress import Progress
from merging.recipe import Calibration, StatisticsKind


def collect_statistics(
    hub: Hub,
    kind: StatisticsKind,
    folder: Path,
    wish: Calibration,
    out: Path,
    *,
    cache: Path,
    files_allowed: bool,
    device: str,
    model: str,
    revision: str,
) -> Generator[Progress, None, Path]:
    """Gram or Fisher statistics of the model in `folder`; its header names no file of this machine.

    The file `out` is there when it is whole.
    """
    from merging.calibrate import collect
    from merging.loading import reads_of

    rows = load_rows(
        hub,
        wish.data,
        text_column=wish.text_column,
        label_column=wish.label_column if kind == "fisher" else None,
        target_column=wish.target_column,
        image_column=wish.image_column,
        reads=reads_of(folder),
        examples=wish.examples,
        seed=wish.seed,
        cache_dir=cache,
        files_allowed=files_allowed,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        yield from collect(
            kind,
            folder,
            [example for example, _ in rows],
            draft,
            examples=wish.examples,
            max_length=wish.max_length,
            batch_size=wish.batch_size,
            seed=wish.seed,
            device=device,
            model=model,
            revision=revision,
            dataset="" if is_local(wish.data) else wish.data,
            variant=wish.variant,
            numbers=wish.numbers,
            labels=[label for _, label in rows],
        )
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return out
