"""Text of a card. Names come from strangers: whatever they hold, the card stays a card."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def escape(text: str, limit: int = 200) -> str:
    """Text of a stranger as plain words in Markdown: one line, no markup, no HTML."""
    line = " ".join(text.split())[:limit]
    return re.sub(r"[\\`*_{}\[\]()#+!|<>~$&]", lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), line)


def code(text: str, limit: int = 200) -> str:
    """Text of a stranger as an inline code span, also inside a table: nothing in it can end the span."""
    line = " ".join(text.split())[:limit].replace("`", "'").replace("|", "¦").replace("<", "‹").replace(">", "›")
    return f"`{line}`" if line else ""


def front_matter(data: Mapping[str, Any]) -> str:
    """The YAML block at the head of a README."""
    return f"---\n{yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)}---\n"
