"""The modules of a sentence-transformers repo, and the small files beside the weights that a plan looks at.

`modules.json` is a list of class paths. Those of sentence-transformers itself are known here by name; any other would
be code of a stranger, and is refused.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merging.errors import InputError
from merging.json_text import plain_json

MODULES_FILE = "modules.json"
SENTENCE_FILES = (
    MODULES_FILE,
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
CHAT_FILES = ("chat_template.jinja", "chat_template.json")
PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")
SIDE_LIMIT = 5_000_000  # bytes of one small file
MODULES_LIMIT = 20
WEIGHTS = "model.safetensors"
BODIES = ("Transformer", "MLMTransformer")  # the model that stands at the root
WEIGHTED = ("Dense", "LayerNorm", "WeightedLayerPooling")  # have tensors of their own
PLAIN = ("Pooling", "Normalize", "Dropout", "SpladePooling", "LogitScore", "MultiVectorMask")
PLACES = (
    r"models|base\.modules|sentence_transformer\.modules|sparse_encoder\.(?:models|modules)"
    r"|cross_encoder\.modules|multi_vector_encoder\.modules"
)
CLASS = re.compile(rf"sentence_transformers\.(?:{PLACES})(?:\.\w+)?\.({'|'.join((*BODIES, *WEIGHTED, *PLAIN))})")
FOLDER = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
ACTIVATION = re.compile(r"torch\.nn\.(?:modules\.(?:activation|linear)\.)?[A-Za-z0-9]+")  # the only class paths carried


@dataclass(frozen=True)
class Module:
    """One step from tokens to an embedding."""

    kind: str  # name of its class
    path: str  # its folder in the repo, "" for the root
    entry: Mapping[str, Any]  # as modules.json names it, and nothing more

    @property
    def config(self) -> str:
        """Path of its config; a module without options may have none."""
        return f"{self.path}/config.json" if self.path else ""

    @property
    def weights(self) -> str:
        """Path of its tensors, "" when it has none of its own."""
        return f"{self.path}/{WEIGHTS}" if self.kind in WEIGHTED else ""


def modules_of(data: Any, model: str) -> tuple[Module, ...]:
    """The modules that a parsed modules.json lists, the transformer first; none for None.

    Raises InputError for anything but classes of sentence-transformers that are known here.
    """
    if data is None:
        return ()

    def wrong(why: str, fix: str = "Save the model again with sentence-transformers") -> InputError:
        return InputError(f"{model} has a {MODULES_FILE} that cannot be used", why, fix)

    if not isinstance(data, list) or not 0 < len(data) <= MODULES_LIMIT:
        raise wrong("it is not a list of modules")
    modules = []
    for entry in data:
        kind, path = (str(entry.get(key, "")) for key in ("type", "path")) if isinstance(entry, dict) else ("", "")
        match = CLASS.fullmatch(kind)
        if match is None:
            known = "only modules of sentence-transformers that are known here are carried, never code"
            raise wrong(f"it names {kind[:100] or 'no class'}: {known}", "Merge models that are built from those")
        if path and not FOLDER.fullmatch(path):
            raise wrong("a module has a folder that cannot be used")
        if bool(path) == (match[1] in BODIES):
            where = f"its transformer stands in {path}" if path else f"its {match[1]} has no folder"
            raise wrong(f"{where}, not at the root" if path else where)
        kept = {key: entry[key] for key in ("idx", "name", "path", "type", "kwargs") if key in entry}
        modules.append(Module(match[1], path, kept))
    folders = [module.path for module in modules]
    if modules[0].kind not in BODIES or len(set(folders)) < len(folders):
        raise wrong("it does not begin with one transformer, followed by modules in folders of their own")
    return tuple(modules)


def module_weights(modules: Sequence[Module], files: Collection[str], model: str, where: str = "") -> tuple[str, ...]:
    """Paths of the modules' safetensors among the repo's files. Raises InputError where only a pickle is there."""
    found = []
    for module in modules:
        if not module.weights:
            continue
        if module.weights not in files:
            pickle = f"{module.path}/pytorch_model.bin"
            if pickle in files:
                raise InputError(
                    f"{model} has no safetensors for its module {module.path}",
                    f"it has only {pickle}, and loading pickles can run code",
                    "Load it once with sentence-transformers and save it again",
                    where,
                )
            raise InputError(f"{model}: {module.weights} is missing", f"{MODULES_FILE} names it", "Add it", where)
        found.append(module.weights)
    return tuple(found)


def side_names(files: Collection[str], modules: Sequence[Module]) -> tuple[str, ...]:
    """The small files of a repo that say how a model is used: looked at before any weights are fetched."""
    wanted = [*SENTENCE_FILES, *CHAT_FILES, *PICTURE_FILES, "generation_config.json"]
    if "generation_config.json" in files:
        wanted.append("tokenizer_config.json")  # an older home of the chat template
    wanted += [module.config for module in modules if module.config]
    return tuple(name for name in wanted if name in files)


def parse_side(name: str, raw: bytes, model: str) -> Any:
    """A small file as data: text of a template, else JSON. Raises InputError for anything else."""
    if len(raw) > SIDE_LIMIT:
        raise InputError(f"{model}: {name} is too large", f"more than {SIDE_LIMIT:,} bytes", "Shorten it")
    try:
        if name.endswith(".jinja"):
            return raw.decode()
        data = plain_json(raw)
        if not isinstance(data, list if name == MODULES_FILE else dict):
            raise ValueError
    except ValueError:
        why = "it is not text" if name.endswith(".jinja") else "it is not JSON of the right form"
        raise InputError(f"{model} has a broken {name}", why, "Save the model again") from None
    return data
