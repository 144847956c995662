"""Every method and its parameters, from their declarations."""

import re

from merging.method import MergeMethod
from ui.forms import label, methods
from ui.parts import fragment
from ui.render import NEED_NAMES, definitions, paper, plural, setting, table, text


def build() -> None:
    """Lay the page out inside the page that is open."""
    fragment("<h2>Methods</h2>")
    fragment(method_table())


def method_table() -> str:
    """Every method with its parameters, from the declarations alone."""
    return "".join(_method(method) for method in methods())


def prose(paragraph: str) -> str:
    """A paragraph of a docstring: its `names` as code, its lines that begin with an asterisk as a list."""
    lead, *items = (
        re.sub(r"`([^`]+)`", r"<code>\1</code>", text(part.strip(), 4000))
        for part in re.split(r"^\* ", paragraph, flags=re.MULTILINE)
    )
    before = f"<p class=mm-doc>{lead}</p>" if lead else ""
    return before + (f"<ul class=mm-doc>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if items else "")


def _method(method: MergeMethod) -> str:
    least, most = method.minimum_models, method.maximum_models
    counted = f"exactly {plural(least, 'model')}" if least == most else f"at least {least}, at most {most} models"
    facts = {
        "Name in a recipe": " or ".join((method.name, *method.aliases)),
        "Models": counted if most else f"at least {plural(least, 'model')}",
        "Needs": ", ".join(NEED_NAMES.get(need, need) for need in sorted(method.needs)) or "nothing else",
    }
    rows = [
        (text(label(one)), text(one.option.help), text(one.range), f"<code>{text(setting(one.default))}</code>")
        for one in method.parameters
    ]
    parameters = table(("Parameter", "What it does", "Values", "Default"), rows)
    paragraphs = "\n".join(method.doc.splitlines()[1:]).strip().split("\n\n")
    doc = "".join(prose(paragraph) for paragraph in paragraphs)
    broken = "".join(f"<li>{text(law)}: {text(reason, 500)}</li>" for law, reason in method.breaks.items())
    laws = f'<p>It does not keep, on purpose:</p><ul class="mm-doc">{broken}</ul>' if broken else ""
    return (
        f'<section class="mm-card" id="{text(method.name)}"><h2>{text(method.title)}</h2>'
        f"<p>{text(method.summary, 500)}</p><p><small>{paper(method)}</small></p>{definitions(facts)}{parameters}"
        f"{doc}{laws}</section>"
    )
