"""Plain data from a stranger's YAML: no anchors, aliases and tags, no key that stands twice, no work without a bound.

Everything is refused while it is read, before it is built: nesting (a reader's time grows with its square), numbers of
more digits than any field has (they cannot be printed), and a text that is too long.
"""

import re
from typing import Any

import yaml

from merging.errors import InputError

YAML_LIMIT = 200_000  # characters: no honest recipe comes near
DEPTH_LIMIT = 30  # lists and tables inside each other
HALF = re.compile("[\ud800-\udfff]")  # of a character outside the first plane: it cannot be stored or sent
NUMBER_LIMIT = 60  # characters of a number
MODES = {"int": yaml.SafeLoader.construct_yaml_int, "float": yaml.SafeLoader.construct_yaml_float}


def read_yaml(text: str) -> Any:
    """Plain data of a YAML text; None for an empty one. Raises InputError with the line at fault."""
    if len(text) > YAML_LIMIT:
        raise InputError("The recipe is too long", f"{len(text):,} characters", f"Keep it under {YAML_LIMIT:,}")
    try:
        return yaml.load(text, Loader=_Plain)
    except (yaml.YAMLError, RecursionError, ValueError, ArithmeticError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or "it cannot be read"
        raise InputError("The recipe is not valid YAML", f"{line}{reason}", "Mend that line") from None


class _Plain(yaml.SafeLoader):
    """Safe YAML as `read_yaml` says."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node. Raises InputError for an anchor, alias or tag, and for nesting beyond the limit."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None or event.tag is not None:
            raise InputError("The recipe uses a YAML anchor, alias or tag", f"line {line}", "Write the value out")
        if isinstance(event, yaml.ScalarEvent) and HALF.search(event.value):
            raise InputError("The recipe holds half a character", f"line {line}", "Write it whole")
        if self._depth >= DEPTH_LIMIT:
            why = f"line {line} is inside more than {DEPTH_LIMIT} lists and tables"
            raise InputError("The recipe is nested too deeply", why, "Write it flat")
        self._depth += 1
        try:
            return super().compose_node(parent, index)  # type: ignore[no-untyped-call, no-any-return]
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping. Raises InputError with both lines of a key that stands twice: the last would win in silence."""
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                key, line = self.construct_object(key_node), key_node.start_mark.line + 1
                if key in lines:
                    what = f"The key {key_node.value[:100]} stands twice"
                    raise InputError(what, f"lines {lines[key]} and {line}", "Leave one out")
                lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """A whole number or a fraction of a length that a person would write."""
        if len(node.value) > NUMBER_LIMIT:
            problem = f"a number of {len(node.value):,} characters"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)  # type: ignore[no-untyped-call]
        return MODES[node.tag.rpartition(":")[2]](self, node)  # type: ignore[no-untyped-call]


for _kind in MODES:
    _Plain.add_constructor(f"tag:yaml.org,2002:{_kind}", _Plain.construct_number)
