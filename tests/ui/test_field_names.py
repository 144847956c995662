"""What the pages call fields, in the sentences of the floors below."""

from pathlib import Path

import pytest

from merging.errors import Problem
from ui.field_names import NAMES, on_page

UI = Path(__file__).parents[2] / "ui"


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (
            Problem("output.repo_id = 'bea/a b'", "a repo id is owner/name", "Mend it", "output.repo_id"),
            "“Name of the new repo” = 'bea/a b': a repo id is owner/name. Mend it.",
        ),
        (
            Problem("It needs a base", "the recipe names none", "Name it as base_model, or use average", "base_model"),
            "It needs a base: the recipe names none. Name it as “Base model”, or use average.",
        ),
        (
            Problem("The models are stored as a, b", "", "Set dtype in the recipe to choose", "dtype"),
            "The models are stored as a, b. Set “Numbers are stored” to choose.",
        ),
        (Problem("lambda = 'x'", "it is no number", "", "parameters.lambda"), "“Lambda” = 'x': it is no number."),
        (Problem("weight = 'x'", "", "", "models.1.parameters.weight"), "“Weight” = 'x'."),
        (Problem("models.0.parameters.density.2 = 3"), "“Density” of model 1 = 3."),
        (Problem("evaluate.1.examples = -1"), "“Examples” of set 2 = -1."),
        (Problem("text.max_length = 0"), "“Longest, in tokens” = 0."),
        (Problem("models.0.model = ''"), "Model 1 = ''."),
    ],
)
def test_a_sentence_names_the_field_that_the_page_has(problem: Problem, sentence: str) -> None:
    """In place of the key, which the command line keeps."""
    assert on_page(problem) == sentence


def test_what_strangers_wrote_is_left_alone() -> None:
    """Names that look like keys: of models, of datasets, of their columns; keys that no page has a field for."""
    for words in ("Which column of ana/text_column is it?", "ana/output.root is gone", "output.nothing = 1"):
        assert on_page(Problem(words, "it has dtype, text_column")) == str(Problem(words, "it has dtype, text_column"))


def test_every_name_is_the_label_of_a_field() -> None:
    """A label that changes must change in both places."""
    sources = "".join(path.read_text(encoding="utf-8") for path in UI.glob("*.py") if path.name != "field_names.py")
    assert [name for name in NAMES.values() if f'"{name}"' not in sources] == []
