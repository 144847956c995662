"""Which files of a model a merge needs: its weights, what says how they are built, and what is carried."""

import re

from merging.checkpoint import TOKENIZER_FILES
from merging.header import WEIGHT_INDEX
from merging.modules import CHAT_FILES, MODULES_FILE, PICTURE_FILES, SENTENCE_FILES
from merging.parent import Parent

SIDE_FILES = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    *CHAT_FILES,
    *PICTURE_FILES,
    "video_preprocessor_config.json",
    *SENTENCE_FILES,
)  # carried from a parent; never code
TEMPLATES = re.compile(r"additional_chat_templates/[\w-]+\.jinja", re.ASCII)  # the chat templates beside the first one


def files_of(parent: Parent) -> tuple[str, ...]:
    """What must be on disk of a parent."""
    wanted = {*parent.weights, "config.json", WEIGHT_INDEX}
    return tuple(sorted({*(name for name in wanted if name in parent.files), *side_files(parent)}))


def files_of_base(base: Parent) -> tuple[str, ...]:
    """What must be on disk of the base: its weights, and what says how they are built; nothing of it is carried."""
    wanted = {*base.weights, "config.json", WEIGHT_INDEX, MODULES_FILE, *(module.config for module in base.modules)}
    return tuple(sorted(name for name in wanted if name in base.files))


def side_files(parent: Parent) -> tuple[str, ...]:
    """Paths of the files beside the weights that are carried from a parent, as far as it has them."""
    templates = sorted(name for name in parent.files if TEMPLATES.fullmatch(name))
    wanted = [*SIDE_FILES, *templates, *(module.config for module in parent.modules)]
    return tuple(name for name in wanted if name in parent.files)
