"""Text, with labels or without, from a dataset of the Hub or a local file: what statistics and scores are made from.

Hub datasets are read as a stream by the `datasets` library, which runs no code of the dataset's. It follows
the environment's HF_ENDPOINT; for another Hub start the process with it set.
"""

import csv
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hub.client import Hub, explained
from merging.errors import InputError, MergeError

POOL = 50_000  # rows that a sample is drawn from
TEXT_LIMIT = 20_000  # characters of one text
TEXT_COLUMNS = ("text", "sentence", "content", "review", "utterance", "query", "question", "premise", "document")
LOCAL_ENDINGS = (".jsonl", ".csv", ".tsv", ".txt")
Row = tuple[str, str | None]


def is_local(data: str) -> bool:
    """True for a file of this machine: `./reviews.csv`, `reviews.tsv:test`, `/data/texts.txt`."""
    name = _file_and_split(data)[0]
    return name.startswith(("/", "./", "../", "~")) or name.endswith(LOCAL_ENDINGS)


def load_rows(
    hub: Hub,
    data: str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    examples: int | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
    files_allowed: bool = False,
) -> list[Row]:
    """(text, label name) of rows of `id[:config][:split]`, or of a local .jsonl, .csv, .tsv (`file.tsv:split`), .txt.

    `examples` draws that many, by `seed`, from the first 50,000; None keeps all of those in order. Without
    `label_column` labels are None. The text column is guessed by name when it is not given. Local files need
    `files_allowed`. Raises InputError that lists the columns, configs or splits there are.
    """
    if is_local(data):
        if not files_allowed:
            raise InputError(f"{data} is a file", "only datasets of the Hub can be used here", "Name owner/dataset")
        source, names = _local_rows(data), None
    else:
        source, names = _hub_rows(hub, data, cache_dir)
    rows = list(_rows(islice(source, POOL), data, text_column, label_column, names))
    if not rows:
        raise InputError(f"{data} holds no text", "every row of it is empty", "Pick another split or column")
    if examples is not None and examples < len(rows):
        rows = random.Random(seed).sample(rows, examples)
    return rows


def _rows(
    source: Iterable[Mapping[str, Any]],
    data: str,
    text_column: str | None,
    label_column: str | None,
    names: Mapping[str, Sequence[str]] | None,
) -> Iterator[Row]:
    chosen = ""
    for row in source:
        chosen = chosen or _text_column(row, data, text_column)
        if label_column is not None and label_column not in row:
            raise _no_column(data, label_column, row)
        text = str(row.get(chosen) or "").strip()[:TEXT_LIMIT]
        if text:
            yield text, _label(row[label_column], (names or {}).get(label_column)) if label_column else None


def _text_column(row: Mapping[str, Any], data: str, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in row:
            raise _no_column(data, wanted, row)
        return wanted
    texts = [name for name, value in row.items() if isinstance(value, str)]
    for name in TEXT_COLUMNS:
        if name in texts:
            return name
    if len(texts) == 1:
        return texts[0]
    raise InputError(
        f"Which column of {data} is the text?", f"it has {_listed(row)}", "Name it as text_column", "text_column"
    )


def _no_column(data: str, column: str, row: Mapping[str, Any]) -> InputError:
    return InputError(f"{data} has no column {column!r}", f"it has {_listed(row)}", "Name one of these")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(str(name)[:60] for name in islice(names, 20))


def _label(value: Any, names: Sequence[str] | None) -> str:
    """The name of a label: that of a class where the dataset names its classes."""
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


# Local files


def _file_and_split(data: str) -> tuple[str, str]:
    name, _, split = data.rpartition(":")
    return (name, split) if name.endswith(LOCAL_ENDINGS) else (data, "")


def _local_rows(data: str) -> Iterator[Mapping[str, Any]]:
    name, split = _file_and_split(data)
    path = Path(name).expanduser()
    if path.suffix not in LOCAL_ENDINGS or not path.is_file():
        raise InputError(f"{name} cannot be read", f"a file ending in {', '.join(LOCAL_ENDINGS)} is needed", "Check it")
    try:
        for row in _parsed(path):
            if not split or row.get("split") == split:
                yield row
    except (ValueError, csv.Error, OSError) as error:
        raise InputError(f"{name} cannot be read", f"it is not {path.suffix[1:]}: {error}", "Mend the file") from None


def _parsed(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".txt":
            yield from ({"text": line.rstrip("\r\n")} for line in file)
        elif path.suffix == ".jsonl":
            yield from (_object(line) for line in file if line.strip())
        elif path.suffix == ".tsv":
            yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            yield from csv.DictReader(file)


def _object(line: str) -> Mapping[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("a line is not an object")
    return row


# Datasets of the Hub


def _hub_rows(
    hub: Hub, data: str, cache_dir: Path | None
) -> tuple[Iterator[Mapping[str, Any]], Mapping[str, Sequence[str]]]:
    """A stream of rows, and the class names of label columns."""
    import datasets  # only here: it is slow to import

    name, *parts = data.split(":")
    if len(parts) > 2 or not name or Path(name).exists():
        raise InputError(f"{data!r} names no dataset", "", "Write owner/name[:config][:split]")
    if hub.url != datasets.config.HF_ENDPOINT.rstrip("/"):
        raise MergeError("Datasets come from another Hub", f"HF_ENDPOINT is not {hub.url}", "Start with it set")
    with explained(hub, name):
        hub.api.auth_check(name, repo_type="dataset")
        revision = hub.api.dataset_info(name).sha
    options: dict[str, Any] = {
        "revision": revision,
        "token": hub.token,
        "download_config": datasets.DownloadConfig(cache_dir=cache_dir, token=hub.token),
    }
    try:
        config, split = _config_and_split(datasets, name, parts, options)
        builder = datasets.load_dataset_builder(
            name, config, cache_dir=str(cache_dir) if cache_dir else None, **options
        )
        # files outside of the dataset, such as those of this machine, are refused by the library
        streams = builder.as_streaming_dataset()
        split = split or ("train" if "train" in streams else next(iter(streams)))
        if split not in streams:
            raise InputError(f"{name} has no split {split!r}", f"it has {_listed(streams)}", "Name one of these")
        stream = streams[split]
    except MergeError:
        raise
    except Exception as error:  # the library raises many kinds; none of them is ours to tell apart
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"The dataset {name} cannot be read", reason, "Pick another dataset or config") from None
    classes = {key: value.names for key, value in (stream.features or {}).items() if hasattr(value, "names")}
    return iter(stream), classes


def _config_and_split(
    datasets: Any, name: str, parts: Sequence[str], options: Mapping[str, Any]
) -> tuple[str | None, str | None]:
    """What the parts behind the name mean: a single one is a config where there is one of that name, else a split."""
    configs = datasets.get_dataset_config_names(name, **options)
    if len(parts) == 2:
        config, split = parts[0] or None, parts[1] or None
    elif parts and parts[0] in configs:
        config, split = parts[0], None
    else:
        config, split = None, parts[0] if parts else None
    if config is not None and config not in configs:
        raise InputError(f"{name} has no config {config!r}", f"it has {_listed(configs)}", "Name one of these")
    if config is None and len(configs) > 1 and "default" not in configs:
        raise InputError(f"Which config of {name}?", f"it has {_listed(configs)}", f"Write {name}:config")
    return config, split
