"""Every method and its parameters, from their declarations."""

import gradio as gr

from ui import render


def build() -> None:
    """Lay the page out inside the page that is open."""
    gr.HTML("<h2>Methods</h2>")
    gr.HTML(render.method_table())
