"""A statistics file in words: what it holds, whether it fits, what to think of before using it."""

from dataclasses import replace

import pytest

from merging.parent import StatisticsFact
from merging.summary import Summary, summarise

GRAM = StatisticsFact(
    kind="gram",
    source="ann/a-merge-statistics@abc:merge-statistics/gram.safetensors",
    sha256="0" * 64,
    weights={"model.safetensors": "1" * 64},
    keys={"q": 384, "k": 384, "out": 1536},
    tokens={"q": 9000, "k": 9000, "out": 1200},
    examples=600,
    nbytes=25_000_000,
)
METADATA = {"model": "ann/a", "revision": "9" * 40, "dataset": "ann/texts", "max_length": "128", "seed": "0"}


def test_the_facts_of_a_gram_file() -> None:
    """Fullness is that of the layer with the fewest tokens for its inputs."""
    one = summarise(GRAM, METADATA, {"model.safetensors": "1" * 64})
    assert one.facts() == {
        "Model": "ann/a at 99999999",
        "Weights": "the same",
        "Collected from": "ann/texts",
        "Examples": "600, each of at most 128 tokens",
        "Tokens": "9,000",
        "Layers": "3, the widest with 1,536 inputs",
        "Fullness": "0.78 tokens for each input of the layer with the fewest",
        "Size": "25.0 MB",
    }
    assert one.warnings() == (
        "One layer has fewer tokens than inputs: the solve leans on the ridge there, and the file says more about "
        "single examples than you may want. More examples mend both.",
    )
    assert Summary.from_dict(one.as_dict()) == one


def test_a_full_gram_gives_no_warning() -> None:
    """As many tokens as inputs are enough."""
    assert summarise(replace(GRAM, tokens={"q": 384, "k": 385, "out": 1536}), METADATA).warnings() == ()


def test_a_layer_that_sees_one_row_an_example_is_left_aside() -> None:
    """Few rows are normal for a pooler; where no layer sees more there is no such layer."""
    keys = {"q": 384, "pooler": 384}
    short = summarise(replace(GRAM, keys=keys, tokens={"q": 2200, "pooler": 200}, examples=200), METADATA)
    assert (short.warnings(), short.facts()["Fullness"][:3]) == ((), "5.7")
    both = summarise(replace(GRAM, keys=keys, tokens={"q": 200, "pooler": 200}, examples=200), METADATA)
    assert both.lacking == 2


def test_the_facts_of_a_fisher_file() -> None:
    """It counts examples; there is no fullness."""
    fact = replace(GRAM, kind="fisher", keys={"q": 147_456}, tokens={"q": 600}, nbytes=3_400)
    facts = summarise(fact, {}).facts()
    assert facts["Tensors"] == "1"
    assert not {"Tokens", "Layers", "Fullness"} & set(facts)
    assert (facts["Model"], facts["Collected from"]) == ("not named", "a text that is not published")
    assert (facts["Weights"], facts["Size"], facts["Examples"]) == ("not compared", "3.4 kB", "600")


@pytest.mark.parametrize(("digest", "belongs"), [("1" * 64, True), ("2" * 64, False), ("", None)])
def test_whether_it_belongs_is_decided_by_hashes_alone(digest: str, belongs: bool | None) -> None:
    """None where the Hub tells no hash."""
    assert summarise(GRAM, METADATA, {"model.safetensors": digest}).belongs is belongs


def test_a_stranger_cannot_make_it_long() -> None:
    """Texts of a header are cut."""
    assert len(summarise(GRAM, {"dataset": "x" * 10_000}).dataset) == 300
