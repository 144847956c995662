"""Examples, with labels or without, from a dataset of the Hub or local files: what statistics and scores are made from.

What an example is depends on what the model reads (`merging.loading`): a text, a text with its target, an image, or
an image with a text.

Hub datasets are read as a stream by the `datasets` library, which runs no code of the dataset's. It follows
the environment's HF_ENDPOINT; for another Hub start the process with it set.
"""

import csv
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import HfHubHTTPError

from hub.client import Hub, explain, explained
from hub.dataset_files import DatasetFile, unopened
from hub.patience import GaveUp
from merging.errors import InputError, MergeError
from merging.recipe import valid_repo_id
from merging.roles import Reads

POOL = 50_000  # rows that a sample is drawn from
TEXT_LIMIT = 20_000  # characters of one text
SIDE = 512  # points: a larger image is made smaller, so that a sample of them fits into memory
TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "utterance", "query", "question", "premise", "document"),
    *("input", "source", "article", "dialogue", "caption"),
)
TARGET_COLUMNS = ("target", "summary", "highlights", "answer", "output", "response", "completion", "labels")
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "pixel_values")
LOCAL_ENDINGS = (".jsonl", ".csv", ".tsv", ".txt")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
Row = tuple[Any, str | None]  # (example, label name)
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A stream of rows, and what is known of them."""

    rows: Iterator[Mapping[str, Any]]
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # column of labels, or of lists -> their names
    revision: str = ""  # commit of a dataset of the Hub


@dataclass(frozen=True)
class Columns:
    """The columns that somebody named."""

    text: str | None
    label: str | None
    target: str | None
    image: str | None  # of images, or of their paths beside a local file


def is_local(data: str) -> bool:
    """True for what lies on this machine: `./reviews.csv`, `reviews.tsv:test`, `/data/texts.txt`, `./pictures`."""
    name = _file_and_split(data)[0]
    return name.startswith(("/", "./", "../", "~")) or name.endswith(LOCAL_ENDINGS)


def local_path(data: str) -> Path | None:
    """Where data of this machine lie, without their split; None for data of the Hub."""
    return Path(_file_and_split(data)[0]).expanduser() if is_local(data) else None


def raise_unless_readable(data: str, where: str = "") -> None:
    """InputError for a local file that is not there, or is of a kind that is not read; a folder may hold images."""
    name = _file_and_split(data)[0]
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"{name} cannot be read", "there is no such file", "Check the path", where)
    if not path.is_dir() and (path.suffix not in LOCAL_ENDINGS or not path.is_file()):
        endings = ", ".join(LOCAL_ENDINGS)
        raise InputError(f"{name} cannot be read", f"a file ending in {endings} is needed", "Check it", where)


def load_rows(
    hub: Hub,
    data: str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    target_column: str | None = None,
    image_column: str | None = None,
    reads: Reads = "text",
    examples: int | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
    files_allowed: bool = False,
) -> list[Row]:
    """(example, label name) of rows of `id[:config][:split]`, or of local files.

    Local are a .jsonl, .csv, .tsv (`file.tsv:split`) or .txt, and for images a folder of them (in one subfolder for
    each label, if there are labels). `reads` is what the model reads. `examples` draws that many, by `seed`, from the
    first 50,000; None keeps all of those in order. Labels are None without a label column. Local files need
    `files_allowed`. A target is the answer that an encoder-decoder is taught; without one it writes its own. Columns
    that are not named are found by their usual names. Raises InputError that lists the columns, configs or splits
    there are.
    """
    columns = Columns(text_column, label_column, target_column, image_column)
    source = open_rows(hub, data, cache_dir=cache_dir, files_allowed=files_allowed)
    rows = list(_rows(islice(source.rows, POOL), data, columns, reads, source.classes))
    if not rows:
        what = "image" if reads == "images" else "text"
        raise InputError(f"{data} holds no {what}", "every row of it is empty", "Pick another split or column")
    return drawn(rows, examples, seed)


def drawn(rows: list[T], examples: int | None, seed: int) -> list[T]:
    """So many of the rows, by `seed`; all of them, in order, where there are no more."""
    return random.Random(seed).sample(rows, examples) if examples is not None and examples < len(rows) else rows


def open_rows(hub: Hub, data: str, *, cache_dir: Path | None = None, files_allowed: bool = False) -> Source:
    """The rows of `id[:config][:split]`, or of local files where these are allowed. Raises InputError."""
    if not is_local(data):
        return _hub_rows(hub, data, cache_dir)
    if not files_allowed:
        raise InputError(f"{data} is a file", "only datasets of the Hub can be used here", "Name owner/dataset")
    return Source(_local_rows(data))


def _rows(
    source: Iterable[Mapping[str, Any]],
    data: str,
    columns: Columns,
    reads: Reads,
    names: Mapping[str, Sequence[str]],
) -> Iterator[Row]:
    text = target = image = ""
    path = local_path(data)
    folder = path.parent if path else None
    for number, row in enumerate(source):
        if number == 0:
            text = text_column_of(row, data, columns.text) if reads != "images" else ""
            image = _image_column(row, data, columns.image) if reads.startswith("images") else ""
            target = _target_column(row, data, columns.target, text) if reads == "pairs" else ""
        if columns.label is not None and columns.label not in row:
            raise no_column(data, columns.label, row)
        words, answer = _cell(row, text), _cell(row, target)
        picture = _picture(row.get(image), data, folder) if image else None
        if (text and not words) or (image and picture is None):
            continue
        example: Any = words
        if image:
            example = (picture, words) if text else picture
        elif answer:
            example = (words, answer)
        yield example, label_name(row[columns.label], names.get(columns.label)) if columns.label else None


def _cell(row: Mapping[str, Any], column: str) -> str:
    return str(row.get(column) or "").strip()[:TEXT_LIMIT] if column else ""


def _target_column(row: Mapping[str, Any], data: str, wanted: str | None, text: str) -> str:
    if wanted is not None and wanted not in row:
        raise no_column(data, wanted, row)
    usual = (name for name in TARGET_COLUMNS if isinstance(row.get(name), str) and name != text)
    return wanted or next(usual, "")


def _image_column(row: Mapping[str, Any], data: str, wanted: str | None) -> str:
    if wanted is not None and wanted not in row:
        raise no_column(data, wanted, row)
    found = wanted or next((name for name in IMAGE_COLUMNS if name in row), "")
    if not found:
        raise InputError(
            f"Which column of {data} is the image?", f"It has {listed(row)}", "Name it as image_column", "image_column"
        )
    return found


def _picture(value: Any, data: str, folder: Path | None) -> Any:
    """An RGB image from what a row holds: one of the dataset, or (local files only) its path; None for nothing."""
    from PIL import Image, UnidentifiedImageError

    if value in (None, ""):
        return None
    try:
        if isinstance(value, str) and folder is not None:
            value = folder / value
        elif isinstance(value, DatasetFile):
            value = value.open()
        else:
            raise InputError(f"{data} holds no images there", f"it is {type(value).__name__}", "Name another column")
        image = Image.open(value).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        return image
    except (OSError, UnidentifiedImageError, AttributeError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{data} holds an image that cannot be read", str(error)[:200], "Mend or remove it") from None


def text_column_of(row: Mapping[str, Any], data: str, wanted: str | None) -> str:
    """The column of the texts: the one that is wanted, or has a usual name, or is the only text. Raises InputError."""
    if wanted is not None:
        if wanted not in row:
            raise no_column(data, wanted, row)
        return wanted
    texts = [name for name, value in row.items() if isinstance(value, str)]
    for name in TEXT_COLUMNS:
        if name in texts:
            return name
    if len(texts) == 1:
        return texts[0]
    raise InputError(
        f"Which column of {data} is the text?", f"It has {listed(row)}", "Name it as text_column", "text_column"
    )


def no_column(data: str, column: str, row: Mapping[str, Any], where: str = "") -> InputError:
    """The error of a column that somebody named and that is not there."""
    return InputError(f"{data} has no column {column!r}", f"it has {listed(row)}", "Name one of these", where)


def listed(names: Iterable[str]) -> str:
    """The first twenty names as a list for a sentence."""
    return ", ".join(str(name)[:60] for name in islice(names, 20))


def label_name(value: Any, names: Sequence[str] | None) -> str:
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
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS)
        yield from ({"image": str(file.absolute()), "label": file.parent.name} for file in files)
        if not files:
            raise InputError(f"{name} holds no image", f"none ends in {', '.join(IMAGE_ENDINGS)}", "Check the folder")
        return
    raise_unless_readable(data)
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


def _hub_rows(hub: Hub, data: str, cache_dir: Path | None) -> Source:
    import datasets  # only here: it is slow to import

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # names, of private ones too, would go to another host
    name, *parts = data.split(":")
    if len(parts) > 2 or not _is_name(name) or Path(name).exists():
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
            raise InputError(f"{name} has no split {split!r}", f"it has {listed(streams)}", "Name one of these")
        stream = streams[split]
    except MergeError:
        raise
    except Exception as error:
        raise _in_words(hub, error, name) from None
    items = {key: getattr(value, "feature", value) for key, value in (stream.features or {}).items()}
    classes = {key: value.names for key, value in items.items() if hasattr(value, "names")}
    return Source(_streamed(hub, unopened(hub, name, revision or "", stream), name), classes, revision or "")


def _is_name(name: str) -> bool:
    """Whether a dataset of the Hub can be called so: `owner/name`, or the one word of an old one. A path never is."""
    return valid_repo_id(name if "/" in name else f"a/{name}")


def _streamed(hub: Hub, stream: Iterable[Mapping[str, Any]], name: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a dataset, of which more is fetched as they are read."""
    try:
        yield from stream
    except Exception as error:
        raise _in_words(hub, error, name) from None


def _in_words(hub: Hub, error: Exception, name: str) -> MergeError:
    """An error of the library, which raises many kinds: the Hub's, or a sign-in's, lies at the bottom of some."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, GaveUp | HfHubHTTPError) and (found := explain(hub, below, name)).passing:
            return found
        below = below.__cause__ or below.__context__
    reason = " ".join(str(error).split())[:200]
    return InputError(f"The dataset {name} cannot be read", reason, "Pick another dataset or config")


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
        raise InputError(f"{name} has no config {config!r}", f"it has {listed(configs)}", "Name one of these")
    if config is None and len(configs) > 1 and "default" not in configs:
        raise InputError(f"Which config of {name}?", f"It has {listed(configs)}", f"Write {name}:config")
    return config, split
