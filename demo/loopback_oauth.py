"""Sign-in with the loopback Hub: OpenID Connect as Gradio's LoginButton uses it.

Covered: discovery, a consent page that lists this Hub's users (clicking one is the whole sign-in), the
organisations to grant, one-time codes, RS256 id tokens, userinfo. Redirects go to loopback addresses only.
Not covered: passwords, PKCE, refresh tokens, revocation. Codes do not survive a restart; tokens do.
"""

import base64
import html
import secrets
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from joserfc import jwt
from joserfc.jwk import RSAKey

from demo.loopback_pages import page
from demo.loopback_store import HubError, Store
from demo.loopback_web import CallerOf, StoreOf, base_url

router = APIRouter()
CODE_SECONDS = 600
TOKEN_SECONDS = 8 * 3600
ASKED = ("client_id", "redirect_uri", "scope", "state", "nonce")


def add_client(store: Store, scopes: str, seconds: float = TOKEN_SECONDS) -> dict[str, Any]:
    """Register an app; its tokens live for so many seconds."""
    client = {
        "id": secrets.token_hex(16),
        "secret": secrets.token_hex(16),
        "scopes": scopes,
        "seconds": seconds,
    }
    store.clients[str(client["id"])] = client
    store.save_state()
    return client


def _key(store: Store) -> RSAKey:
    """The Hub's signing key, made when it is first needed."""
    if "rsa" not in store.keys:
        store.keys["rsa"] = RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True)
        store.save_state()
    return RSAKey.import_key(store.keys["rsa"])


@router.get("/.well-known/openid-configuration")
async def configuration(request: Request) -> dict[str, Any]:
    """Where everything is."""
    base = base_url(request)
    return {
        "issuer": base,
        "authorization_endpoint": f"{base}/oauth/authorize",
        "token_endpoint": f"{base}/oauth/token",
        "userinfo_endpoint": f"{base}/oauth/userinfo",
        "jwks_uri": f"{base}/oauth/jwks",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }


@router.get("/oauth/jwks")
async def jwks(store: StoreOf) -> dict[str, Any]:
    """The public half of the signing key."""
    return {"keys": [_key(store).as_dict(private=False)]}


def _asked(store: Store, fields: Any) -> dict[str, str]:
    """What an app asks for, once it is known and its way back stays on this machine."""
    asked = {key: str(fields.get(key, "")) for key in ASKED}
    client = store.clients.get(asked["client_id"])
    if client is None:
        raise HubError(400, "Unknown client_id")
    if urlsplit(asked["redirect_uri"]).hostname not in ("127.0.0.1", "localhost"):
        raise HubError(400, "redirect_uri must be an address on this machine")
    unknown = set(asked["scope"].split()) - set(client["scopes"].split())
    if unknown:
        raise HubError(400, f"This app was not registered for the scopes {' '.join(sorted(unknown))}")
    return asked


@router.get("/oauth/authorize")
async def consent(request: Request, store: StoreOf) -> HTMLResponse:
    """The page on which a person says who they are."""
    asked = _asked(store, request.query_params)
    hidden = "".join(f'<input type="hidden" name="{key}" value="{html.escape(value)}">' for key, value in asked.items())
    scopes = "".join(f"<li><code>{html.escape(scope)}</code></li>" for scope in asked["scope"].split())
    forms = "".join(_form(name, user["orgs"], hidden) for name, user in store.users.items())
    return page("Sign in", f"<p>An app asks for:</p><ul>{scopes}</ul>{forms or '<p>This Hub has no users.</p>'}")


def _form(name: str, orgs: dict[str, str], hidden: str) -> str:
    """One user's button, with the organisations to grant."""
    safe, names = html.escape(name), [html.escape(org) for org in orgs]
    box = '<label><input type="checkbox" name="org" value="{0}" checked> {0}</label> '
    boxes = "".join(box.format(org) for org in names)
    button = f'<button name="user" value="{safe}">Continue as {safe}</button>'
    return f'<form method="post" action="/oauth/authorize">{hidden}<p>{button} {boxes}</p></form>'


@router.post("/oauth/authorize")
async def approve(request: Request, store: StoreOf) -> RedirectResponse:
    """The click on the page: back to the app with a code."""
    form = await request.form()
    asked, user = _asked(store, form), str(form.get("user", ""))
    if user not in store.users:
        raise HubError(400, f"No user {user} on this Hub")
    code = secrets.token_urlsafe(24)
    orgs = [str(org) for org in form.getlist("org")]
    request.app.state.codes[code] = {**asked, "user": user, "orgs": orgs, "until": time.time() + CODE_SECONDS}
    target = asked["redirect_uri"]
    joint = "&" if urlsplit(target).query else "?"
    return RedirectResponse(f"{target}{joint}{urlencode({'code': code, 'state': asked['state']})}", 303)


def _client_of(request: Request, store: Store, form: Any) -> dict[str, Any]:
    """The app behind a token request, by Basic credentials or by form fields."""
    given_id, given_secret = str(form.get("client_id", "")), str(form.get("client_secret", ""))
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        given_id, _, given_secret = base64.b64decode(credentials).decode().partition(":")
    client = store.clients.get(given_id)
    if client is None or not secrets.compare_digest(client["secret"], given_secret):
        raise HubError(401, "Wrong client credentials", error="invalid_client")
    return client


@router.post("/oauth/token")
async def token(request: Request, store: StoreOf) -> dict[str, Any]:
    """A code, once, for an access token and an id token."""
    form = await request.form()
    client = _client_of(request, store, form)
    code = request.app.state.codes.pop(str(form.get("code")), None)
    if code is None or code["client_id"] != client["id"] or code["until"] < time.time():
        raise HubError(400, "This code is unknown, used or too old", error="invalid_grant")
    if form.get("redirect_uri") != code["redirect_uri"]:
        raise HubError(400, "redirect_uri is not the one of the sign-in", error="invalid_grant")
    seconds, scopes = client["seconds"], code["scope"].split()
    access = store.add_token(
        code["user"],
        prefix="hf_oauth_",
        seconds=seconds,
        scopes=scopes,
        client=client["id"],
        orgs=code["orgs"],
    )
    moment = int(time.time())
    claims = {
        **_profile(request, code["user"]),
        "iss": base_url(request),
        "aud": client["id"],
        "nonce": code["nonce"],
    }
    claims.update(iat=moment, exp=moment + 3600)
    key = _key(store)
    return {
        "access_token": access,
        "token_type": "bearer",
        "expires_in": int(seconds),
        "scope": code["scope"],
        "id_token": jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key),
    }


def _profile(request: Request, user: str) -> dict[str, Any]:
    base = base_url(request)
    return {
        "sub": request.app.state.store.users[user]["id"],
        "name": user,
        "preferred_username": user,
        "profile": f"{base}/{user}",
        "picture": f"{base}/avatars/{user}.svg",
        "website": "",
        "isPro": False,
    }


@router.get("/oauth/userinfo")
async def userinfo(request: Request, caller: CallerOf) -> dict[str, Any]:
    """The signed-in user and the organisations granted to the app."""
    user = caller.need_user()
    orgs = [
        {"sub": org, "name": org, "preferred_username": org, "roleInOrg": role} for org, role in caller.orgs.items()
    ]
    email = {"email": f"{user}@example.org", "email_verified": True} if caller.has("email") else {}
    return {**_profile(request, user), "orgs": orgs, **email}
