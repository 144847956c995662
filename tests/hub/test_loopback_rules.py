"""Who may do what on the loopback Hub, as the real client's exceptions tell it."""

from collections.abc import Callable

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from demo.loopback_hub import LoopbackHub

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test

Client = Callable[..., HfApi]


@pytest.fixture
def client(hub: LoopbackHub) -> Client:
    """Makes a client of a user, with a classic token or with scopes."""
    for name in ("owner", "guest"):
        hub.add_user(name)

    def make(user: str, *scopes: str, **token: object) -> HfApi:
        return HfApi(endpoint=hub.url, token=hub.add_token(user, scopes or None, **token))  # type: ignore[arg-type]

    return make


def put(api: HfApi, repo_id: str, **options: object) -> None:
    """Commit one small file."""
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=repo_id, **options)  # type: ignore[arg-type]


def refusal(error: pytest.ExceptionInfo[HfHubHTTPError]) -> tuple[int, str]:
    """Status and message of a refused request."""
    return error.value.response.status_code, error.value.response.headers["X-Error-Message"]


def test_private_repos_are_not_there_for_others(client: Client, hub: LoopbackHub) -> None:
    """Neither by name nor in the search, for strangers and for nobody."""
    owner = client("owner")
    owner.create_repo("owner/hidden", private=True)
    put(owner, "owner/hidden")
    for other in (client("guest"), HfApi(endpoint=hub.url, token=False)):
        with pytest.raises(RepositoryNotFoundError):
            other.model_info("owner/hidden")
        with pytest.raises(RepositoryNotFoundError):
            other.hf_hub_download("owner/hidden", "config.json")
        with pytest.raises(RepositoryNotFoundError):
            other.auth_check("owner/hidden")
        assert list(other.list_models()) == []
    assert [model.id for model in owner.list_models()] == ["owner/hidden"]


def test_others_cannot_write(client: Client, hub: LoopbackHub) -> None:
    """A public repo is read by all and written by its owner."""
    client("owner").create_repo("owner/m")
    guest = client("guest")
    guest.auth_check("owner/m")
    with pytest.raises(HfHubHTTPError) as error:
        put(guest, "owner/m")
    assert refusal(error)[0] == 403
    with pytest.raises(HfHubHTTPError, match="403"):
        guest.auth_check("owner/m", write=True)
    with pytest.raises(HfHubHTTPError, match="403"):
        guest.create_repo("owner/mine")
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(endpoint=hub.url, token=False).create_repo("owner/mine")


def test_a_gated_repo_is_described_but_not_read(client: Client, hub: LoopbackHub) -> None:
    """Files answer GatedRepo until the user is let in; the description stays open."""
    owner, guest, nobody = client("owner"), client("guest"), HfApi(endpoint=hub.url, token=False)
    owner.create_repo("owner/gated")
    put(owner, "owner/gated")
    owner.update_repo_settings("owner/gated", gated="manual")
    owner.auth_check("owner/gated")
    for other in (guest, nobody):
        assert other.model_info("owner/gated").gated == "manual"
        with pytest.raises(GatedRepoError):
            other.auth_check("owner/gated")
        with pytest.raises(GatedRepoError):
            other.get_hf_file_metadata(url=f"{hub.url}/owner/gated/resolve/main/config.json")
    hub.grant_access("owner/gated", "guest")
    guest.auth_check("owner/gated")
    with pytest.raises(GatedRepoError) as error:
        client("guest", "openid", "profile").auth_check("owner/gated")
    assert "gated-repos" in refusal(error)[1]
    client("guest", "openid", "profile", "gated-repos").auth_check("owner/gated")


def test_roles_in_an_organisation(client: Client, hub: LoopbackHub) -> None:
    """Readers read private repos, contributors write to their own, writers write, admins delete."""
    for role in ("admin", "write", "contributor", "read"):
        hub.add_user(role, orgs=["team"], role=role)
    client("admin").create_repo("team/m", private=True)
    client("contributor").create_repo("team/own")
    put(client("contributor"), "team/own")
    client("read").model_info("team/m")
    put(client("write"), "team/m")
    for name in ("contributor", "read"):
        with pytest.raises(HfHubHTTPError, match="403"):
            put(client(name), "team/m")
    with pytest.raises(HfHubHTTPError, match="403"):
        client("read").create_repo("team/other")
    with pytest.raises(HfHubHTTPError, match="403"):
        client("write").delete_repo("team/m")
    client("admin").delete_repo("team/m")


def test_a_read_token_changes_nothing(client: Client) -> None:
    """A classic token of the role read."""
    reader = client("owner", role="read")
    client("owner").create_repo("owner/m", private=True)
    assert reader.model_info("owner/m").private
    with pytest.raises(HfHubHTTPError, match="write role"):
        reader.create_repo("owner/n")
    with pytest.raises(HfHubHTTPError, match="write role"):
        put(reader, "owner/m")


SIGNED_IN = ("openid", "profile")


def test_signing_in_grants_nothing_but_the_name(client: Client, hub: LoopbackHub) -> None:
    """openid and profile: no private reads, no new repos, no organisations."""
    hub.add_user("owner", orgs=["team"])
    client("owner").create_repo("owner/hidden", private=True)
    api = client("owner", *SIGNED_IN)
    assert (api.whoami()["name"], api.whoami()["orgs"]) == ("owner", [])
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("owner/hidden")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("owner/new")
    assert refusal(error) == (403, "This token is missing required scope: contribute-repos or manage-repos")
    assert client("owner", *SIGNED_IN, "read-memberships").whoami()["orgs"][0]["name"] == "team"


def test_read_repos_opens_private_repos_and_no_more(client: Client) -> None:
    """Reading works, writing names the scope that is missing."""
    client("owner").create_repo("owner/hidden", private=True)
    api = client("owner", *SIGNED_IN, "read-repos")
    assert api.list_repo_files("owner/hidden") == [".gitattributes"]
    with pytest.raises(HfHubHTTPError) as error:
        put(api, "owner/hidden")
    assert "write-repos" in refusal(error)[1]


def test_contribute_repos_reaches_what_the_app_created(client: Client) -> None:
    """An app may create repos and write to those, not to others of the user, nor to those of another app."""
    client("owner").create_repo("owner/before")
    api = client("owner", *SIGNED_IN, "contribute-repos", client="app")
    api.create_repo("owner/after", private=True)
    put(api, "owner/after")
    assert api.model_info("owner/after").private
    put(client("owner", *SIGNED_IN, "contribute-repos", client="app"), "owner/after", revision="main")
    with pytest.raises(HfHubHTTPError, match="missing required scope"):
        put(api, "owner/before")
    with pytest.raises(RepositoryNotFoundError):
        client("owner", *SIGNED_IN, "contribute-repos", client="another").model_info("owner/after")
    with pytest.raises(HfHubHTTPError, match="manage-repos"):
        api.delete_repo("owner/after")


def test_write_and_manage_repos(client: Client) -> None:
    """write-repos commits to existing repos; settings and deletion take manage-repos."""
    client("owner").create_repo("owner/m")
    api = client("owner", *SIGNED_IN, "write-repos")
    put(api, "owner/m")
    with pytest.raises(HfHubHTTPError, match="manage-repos"):
        api.update_repo_settings("owner/m", private=True)
    manager = client("owner", *SIGNED_IN, "manage-repos")
    manager.update_repo_settings("owner/m", private=True)
    manager.delete_repo("owner/m")


def test_pull_requests_take_write_discussions(client: Client) -> None:
    """A signed-in stranger with the scope may open one, without it may not."""
    client("owner").create_repo("owner/m")
    with pytest.raises(HfHubHTTPError) as error:
        put(client("guest", *SIGNED_IN), "owner/m", create_pr=True)
    assert "write-discussions" in refusal(error)[1]
    put(client("guest", *SIGNED_IN, "write-discussions"), "owner/m", create_pr=True)


def test_tokens_expire(client: Client, hub: LoopbackHub) -> None:
    """After its time, or when told so, a token is invalid, which is not the same as no token."""
    client("owner").create_repo("owner/m")
    api = client("owner", *SIGNED_IN, expires_in=-1)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info("owner/m")
    api = client("owner")
    hub.expire_token(str(api.token))
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami()
