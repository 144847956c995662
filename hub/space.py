"""This service as a Space: exactly the files that run there, in one commit.

python -m hub.space owner/name          with the token that `hf auth login` left; what `make space` calls
"""

import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hub.client import Hub, explain, explained, hub_of_this_machine
from hub.identity import raise_unless_writable, whoami
from merging.errors import InputError, MergeError
from merging.recipe import valid_repo_id

TOP_FILES = ("README.md", "LICENSE", "app.py", "cli.py", "settings.py", "requirements.txt")
FOLDERS = ("merging", "hub", "jobs", "ui")
ENDINGS = (".py", ".css", ".js", ".svg", ".html")
REQUIRED = ("README.md", "app.py", "settings.py", "requirements.txt")
SECRET = "MERGE_SECRET_KEY"
MARK = "merging/method.py"  # a Space that has this file is one of ours


def space_files(root: Path) -> tuple[str, ...]:
    """The files of a checkout that run on a Space: no demo, tests, docs, benchmarks."""
    top = [name for name in TOP_FILES if (root / name).is_file()]
    missing = [name for name in REQUIRED if name not in top]
    if missing:
        raise InputError(f"{missing[0]} is missing", f"{root} is no checkout of this service", "Run it at its root")
    inside = [
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and path.suffix in ENDINGS and "__pycache__" not in path.parts
    ]
    return (*top, *inside)


def front_matter_of(readme: str) -> dict[str, object]:
    """The YAML block at the head of a README. Raises InputError when it does not describe a Gradio Space."""
    _, _, rest = readme.partition("---\n")
    block, fence, _ = rest.partition("\n---")
    try:
        data = yaml.safe_load(block) if readme.startswith("---\n") and fence else None
    except yaml.YAMLError:
        data = None
    if not isinstance(data, dict) or data.get("sdk") != "gradio" or not data.get("hf_oauth"):
        raise InputError("README.md does not describe a Space", "sdk: gradio and hf_oauth: true are needed", "Add them")
    return data


def create_space(
    hub: Hub,
    repo_id: str,
    root: Path,
    files: Sequence[str] | None = None,
    *,
    private: bool = False,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Create or update the Space `repo_id` from a checkout at `root`; returns its address.

    The secret that encrypts tokens is made once: a second run leaves it as it is, so that waiting jobs go on.
    Files of our own folders that no longer exist are removed there; nothing else is. Raises InputError when the
    name is taken by another Space.
    """
    files = tuple(files) if files is not None else space_files(root)
    front_matter_of((root / "README.md").read_text())
    if not valid_repo_id(repo_id):
        raise InputError(f"{repo_id} is not a valid name", "", "Write owner/name", "REPO")
    raise_unless_writable(whoami(hub), repo_id.partition("/")[0], "REPO")
    old = _files_of(hub, repo_id)
    if old is None:
        with explained(hub, repo_id):
            hub.api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private)
        old = frozenset()
    with explained(hub, repo_id):
        if SECRET not in hub.api.get_space_secrets(repo_id):
            hub.api.add_space_secret(repo_id, SECRET, secrets.token_urlsafe(32))
        for key, value in (variables or {}).items():
            hub.api.add_space_variable(repo_id, key, value)
        stale = [name for name in sorted(old) if name.partition("/")[0] in FOLDERS and name not in files]
        hub.api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, root / name) for name in files),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message="Update the service",
            repo_type="space",
        )
    return f"{hub.url}/spaces/{repo_id}"


def _files_of(hub: Hub, repo_id: str) -> frozenset[str] | None:
    """The files of the Space, None when there is none. InputError when it is not one of ours."""
    try:
        info = hub.api.space_info(repo_id)
    except RepositoryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise explain(hub, error, repo_id) from None
    files = frozenset(sibling.rfilename for sibling in info.siblings or [])
    if MARK not in files and files - {".gitattributes", "README.md"}:
        raise InputError(
            f"{repo_id} exists and is another Space", "nothing is overwritten", "Pick another name", "REPO"
        )
    return files


def main(arguments: Sequence[str]) -> int:
    """The command: exit 0 and the address, 2 when the input is at fault, 1 otherwise."""
    try:
        if len(arguments) != 1:
            raise InputError("Which Space?", "One name is needed", "Write make space REPO=owner/name")
        print(create_space(hub_of_this_machine(), arguments[0], Path(__file__).parent.parent))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except MergeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
