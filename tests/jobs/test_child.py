"""What a child process is given, and what its words are cleaned of."""

from pathlib import Path

from jobs.child import child_environment, scrub


def test_tokens_are_scrubbed_from_text() -> None:
    """The job's own, and whatever looks like one."""
    assert scrub("with secret here", "secret") == "with *** here"
    assert scrub("hf_abcdefghij and Bearer abc.def-ghi") == "*** and Bearer ***"
    assert scrub("hf_hub_download of a file") == "hf_hub_download of a file"


def test_a_child_knows_no_secret_of_its_worker(tmp_path: Path) -> None:
    """Keys, database and tokens stay behind; caches are the job's own."""
    parent = {
        "MERGE_SECRET_KEY": "k",
        "MERGE_DATABASE_URL": "d",
        "HF_TOKEN": "t",
        "HF_HUB_CACHE": "/shared",
        "PATH": "p",
    }
    environment = child_environment(tmp_path, "http://hub", parent | {"PATH": "p"})
    assert not {"k", "d", "t", "/shared"} & set(environment.values())
    assert (environment["HF_HOME"], environment["HF_ENDPOINT"], environment["PATH"]) == (
        str(tmp_path),
        "http://hub",
        "p",
    )
