"""Every method and its parameters, from their declarations."""

from ui import render
from ui.parts import fragment


def build() -> None:
    """Lay the page out inside the page that is open."""
    fragment("<h2>Methods</h2>")
    fragment(render.method_table())
