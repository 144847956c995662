"""Where a sign-in leads back to."""

from urllib.parse import parse_qs

import pytest

from ui.sign_in_target import quoted


@pytest.mark.parametrize(
    ("query", "target"),
    [
        ("_target_url=/jobs?id=one&with=two", "/jobs?id=one&with=two"),
        (
            "_target_url=/statistics?model=ana%2Fone&text_column=a%26b+c",
            "/statistics?model=ana%2Fone&text_column=a%26b+c",
        ),
        ("_target_url=/methods", "/methods"),
        ("_target_url=%2Fjobs%3Fid%3Done&_nb_redirects=1", "/jobs?id=one"),
        ("_target_url=%2Fjobs%3Fid%3Done%26with%3Dtwo", "/jobs?id=one&with=two"),
        ("_target_url=/?x=1%0d%0aset-cookie:%20a", "/?x=1%0d%0aset-cookie:%20a"),
    ],
)
def test_a_target_is_the_whole_address(query: str, target: str) -> None:
    """As the page stands at it, letter by letter; what is quoted already is left alone, and so is another query."""
    assert parse_qs(quoted(query.encode()).decode())["_target_url"] == [target]
    assert quoted(b"code=1&state=a?b") == b"code=1&state=a?b"
