"""Merges to begin with: a list in a file, of which those are offered whose models the Hub has for everybody."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hub.client import Hub, explained
from merging.errors import InputError, MergeError
from merging.recipe import Recipe, recipe_from_dict
from merging.yaml_text import read_yaml
from ui import render
from ui.desk import Recent

FILE = Path(__file__).with_name("examples.yaml")
KEEP = 1800.0  # seconds that a look at the Hub is good for
MOST = 6


@dataclass(frozen=True)
class Example:
    """A recipe with a title."""

    title: str
    recipe: Recipe

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that it needs, the base included."""
        named = {entry.repo_id for entry in self.recipe.models}
        return tuple(sorted(named | ({self.recipe.base.repo_id} if self.recipe.base else set())))


class Examples:
    """The examples of one file."""

    def __init__(self, file: Path | None = None) -> None:
        """Raises InputError for a file that cannot be read, or is no list of titles and recipes."""
        self._all = read_examples(file or FILE)
        self._known = Recent(KEEP)

    def available(self, hub: Hub) -> Sequence[Example]:
        """Those whose models are all there for everybody; none while the Hub does not answer."""
        public = Hub.anonymous(hub.endpoint)
        return self._known.get("all", lambda: _available(public, self._all))


def read_examples(file: Path) -> Sequence[Example]:
    """The examples in a YAML file. Raises InputError."""
    try:
        data = read_yaml(file.expanduser().read_text(encoding="utf-8"))
        return [Example(str(one["title"])[:80], recipe_from_dict(one["recipe"])) for one in data][:MOST]
    except (OSError, UnicodeDecodeError, KeyError, TypeError) as error:
        what = f"The examples in {file} cannot be read"
        raise InputError(what, type(error).__name__, "Write a list of title and recipe", "MERGE_EXAMPLES") from None
    except InputError as error:
        what = f"The examples in {file} cannot be used"
        raise InputError(what, str(error), "Mend the file", "MERGE_EXAMPLES") from None


def _available(hub: Hub, examples: Sequence[Example]) -> Sequence[Example]:
    names = sorted({name for one in examples for name in one.models})
    with ThreadPoolExecutor(4) as pool:
        there = dict(zip(names, pool.map(lambda name: _is_there(hub, name), names), strict=True))
    return [one for one in examples if all(there[name] for name in one.models)]


def _is_there(hub: Hub, name: str) -> bool:
    try:
        with explained(hub, name):
            hub.api.model_info(name, expand=["sha"])
    except MergeError:
        return False
    return True


def shown(examples: Sequence[Example]) -> str:
    """Links that open the form filled."""
    if not examples:
        return ""
    links = "".join(
        render.link(render.recipe_link("", one.recipe), one.title, css="mm-small", here=True) for one in examples
    )
    return f'<p class="mm-offers mm-examples"><span class="mm-quiet">Try an example:</span> {links}</p>'


def suggested(models: Sequence[str], base: str) -> str:
    """Buttons that add one more fine-tune of the same base."""
    if not models:
        return ""
    names = "".join(
        f'<button type="button" class="mm-small" data-choice="{render.text(name)}" '
        f'aria-label="Add {render.text(name)}">+ {render.text(name, 60)}</button>'
        for name in models
    )
    return f'<p class="mm-offers"><span class="mm-quiet">Also made from {render.text(base, 80)}:</span> {names}</p>'
