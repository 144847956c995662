"""The loopback Hub's pages for people: plain HTML without scripts, with every foreign word escaped.

Covered: what is public, so that a link to a published model opens for anyone. Private repos are not there.
Not covered: signing in on these pages, editing, rendered Markdown.
"""

import html
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from demo.loopback_info import card_body
from demo.loopback_rules import Caller
from demo.loopback_store import KINDS, PREFIXES, Repo, Store
from demo.loopback_web import PathOf, RevisionOf, StoreOf

router = APIRouter()
STYLE = "body{font:16px/1.5 system-ui;max-width:48rem;margin:2rem auto;padding:0 1rem}pre{white-space:pre-wrap}"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; frame-ancestors 'self'"


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """A page; `body` is HTML, `title` is not."""
    safe = html.escape(title)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{safe}</title>'
    text = f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body><h1>{safe}</h1>{body}"
    return HTMLResponse(text + "</body></html>", status, {"Content-Security-Policy": POLICY})


def _link(target: str, text: str) -> str:
    return f'<a href="{html.escape(quote(target))}">{html.escape(text)}</a>'


def _listing(repos: list[Repo]) -> str:
    rows = "".join(f"<li>{repo.kind}: {_link('/' + repo.path, repo.id)}</li>" for repo in repos)
    return f"<ul>{rows}</ul>" if rows else "<p>Nothing public yet.</p>"


def _public(store: Store) -> list[Repo]:
    return [repo for repo in store.repos.values() if Caller(store).sees(repo)]


@router.get("/")
async def home(store: StoreOf) -> HTMLResponse:
    """All public repos."""
    return page("A Hub on this machine", _listing(_public(store)))


@router.get("/avatars/{name}.svg")
async def avatar(name: str) -> Response:
    """A user's picture: the first letter."""
    text = f'<text x="16" y="22" text-anchor="middle" font-size="18">{html.escape(name[:1].upper())}</text>'
    shape = f'<rect width="32" height="32" fill="#ddd"/>{text}'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{shape}</svg>'
    return Response(svg, media_type="image/svg+xml")


@router.get("/{owner}")
async def owner_page(owner: str, store: StoreOf) -> HTMLResponse:
    """The public repos of a user or organisation."""
    repos = [repo for repo in _public(store) if repo.owner == owner]
    if not repos and owner not in store.users:
        return page("404", "<p>There is nobody of this name here.</p>", 404)
    return page(owner, _listing(repos))


@router.get("/{owner}/{name}")
@router.get("/{owner}/{name}/tree/{revision}")
@router.get("/{owner}/{name}/commit/{revision}")
@router.get("/{owner}/{name}/discussions/{number}")
@router.get("/{kinds:kinds}/{owner}/{name}")
@router.get("/{kinds:kinds}/{owner}/{name}/tree/{revision}")
@router.get("/{kinds:kinds}/{owner}/{name}/commit/{revision}")
@router.get("/{kinds:kinds}/{owner}/{name}/discussions/{number}")
async def repo_page(request: Request, revision: RevisionOf, store: StoreOf) -> HTMLResponse:
    """A repo at one revision: its card as text, its files as links."""
    parameters = request.path_params
    kind = KINDS[parameters.get("kinds", "models")]
    repo = store.repos.get((kind, f"{parameters['owner']}/{parameters['name']}"))
    if repo is None or not Caller(store).sees(repo):
        return page("404", "<p>This repo does not exist, or it is private.</p>", 404)
    revision = f"refs/pr/{parameters['number']}" if "number" in parameters else revision
    commit = store.resolve(repo, revision)
    card = html.escape(card_body(store.read_text(commit, "README.md") or "No card."))
    rows = "".join(
        f"<li>{_link(f'/{repo.path}/resolve/{commit.id}/{path}', path)} ({entry.size:,} bytes)</li>"
        for path, entry in commit.files.items()
    )
    gated = "<p>This repo is gated: reading its files takes permission.</p>" if repo.gated else ""
    about = f"<p>{kind} of {_link('/' + repo.owner, repo.owner)}, commit <code>{commit.id[:8]}</code></p>{gated}"
    return page(repo.id, f"{about}<h2>Card</h2><pre>{card}</pre><h2>Files</h2><ul>{rows}</ul>")


@router.get("/{owner}/{name}/blob/{revision}/{path:path}")
@router.get("/{kinds:kinds}/{owner}/{name}/blob/{revision}/{path:path}")
async def blob_page(request: Request, revision: RevisionOf, path: PathOf) -> RedirectResponse:
    """A file's page is the file itself."""
    parameters = request.path_params
    prefix = PREFIXES[KINDS[parameters.get("kinds", "models")]]
    repo = f"/{prefix}{parameters['owner']}/{parameters['name']}"
    return RedirectResponse(f"{repo}/resolve/{quote(revision, safe='')}/{quote(path)}", 302)
