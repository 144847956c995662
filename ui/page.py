"""The whole site: five pages under one header, the public API, the guard before all of it."""

import warnings
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, Response

from hub.client import Hub, HubUnavailable
from merging.errors import MergeError
from ui import browser, methods_page, render
from ui.api import CALLS, add_calls
from ui.bodies import BodyLimit
from ui.desk import Desk
from ui.job_page import JobPage
from ui.kept import KeptPages
from ui.merge_page import MergePage
from ui.model_page import ModelPage
from ui.not_found import NotFoundPage
from ui.parts import fragment
from ui.preview_picture import Busy, PreviewPictures
from ui.previews import PICTURE, TITLE, LinkPreview
from ui.request_log import RequestLog
from ui.security import Guard, spoken
from ui.shared import SharedLook
from ui.shell import header_html
from ui.sign_in_target import SignInTarget
from ui.statistics_page import StatisticsPage
from ui.uploads import ROUTE, UploadLimit, Uploads, read_only_uploads

HERE = Path(__file__).parent
SYSTEM_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO_FONT = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
UPLOAD_LIMIT = "6mb"  # more than `jobs.text` takes, whose sentence is better
AWAY = "<p>The Hub does not answer: who is signed in on this machine is not known</p>"
AT_A_TIME = 16  # events of one kind: most of them wait for the Hub, not for this machine
READY_KEPT = 2.0  # seconds between two looks at whether jobs can be done
WAITING = 2000  # events that may wait for their turn; more are refused


def theme() -> gr.Theme:
    """Calm colours, system fonts, nothing from elsewhere."""
    base = gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=SYSTEM_FONT, font_mono=MONO_FONT
    )
    return base.set(
        input_background_fill="*background_fill_primary",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        block_border_width="0px",
        block_padding="0px",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_label_text_weight="600",
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        checkbox_label_background_fill="*background_fill_secondary",
        checkbox_label_background_fill_dark="*background_fill_secondary",
        checkbox_label_border_color_selected="*primary_500",
        checkbox_label_border_color_selected_dark="*primary_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
    )


def build_page(desk: Desk) -> gr.Blocks:
    """The Gradio application with all its pages."""
    blocks: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        _header(desk, blocks, "/")
        MergePage(desk).build(blocks)
        add_calls(desk)
    with blocks.route("Jobs", "/jobs", show_in_navbar=False):
        _header(desk, blocks, "/jobs")
        JobPage(desk).build(blocks)
    with blocks.route("Statistics", "/statistics", show_in_navbar=False):
        _header(desk, blocks, "/statistics")
        StatisticsPage(desk).build(blocks)
    with blocks.route("Methods", "/methods", show_in_navbar=False):
        _header(desk, blocks, "/methods")
        methods_page.build()
    with blocks.route("Model", "/model", show_in_navbar=False):
        _header(desk, blocks, "/model")
        ModelPage(desk).build(blocks)
    for event in blocks.fns.values():  # those of Gradio's own components would be public otherwise
        if event.api_name not in CALLS:
            event.api_visibility = "private"
    return blocks


def build_app(
    desk: Desk, *, origins: frozenset[str] = frozenset(), site: str = "", uploads: Uploads | None = None
) -> FastAPI:
    """The service as one ASGI application; `origins` and `site` as `Guard` takes them.

    Without `uploads` nobody limits them: for tests.
    """
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(KeptPages)
    app.add_middleware(LinkPreview, public_url=desk.public_url)
    app.add_middleware(NotFoundPage)
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)
    app.add_middleware(BodyLimit, besides=ROUTE)
    if uploads is not None:
        app.add_middleware(UploadLimit, uploads=uploads)
    app.add_middleware(SignInTarget)
    app.add_middleware(Guard, loopback_only=desk.access.single_user, origins=origins, site=site)
    app.add_middleware(RequestLog)

    @app.get("/health")
    async def health() -> JSONResponse:
        """That this process lives: nothing else is asked."""
        return JSONResponse({"status": "ok"})

    readiness = SharedLook(desk.service.not_ready, READY_KEPT)

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Whether jobs can be taken and done now: 503 with the reasons why not."""
        reasons = await readiness.get()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    pictures = PreviewPictures(lambda repo_id: desk.merged(repo_id, Hub.anonymous(desk.access.endpoint)))

    @app.get(PICTURE)
    def preview_picture(id: str = "") -> Response:
        """The picture of a shared link, for anybody and for any site: it shows nothing that is not public."""
        try:
            png = pictures.of(id)
        except Busy:
            return Response(pictures.of(""), media_type="image/png", headers={"cache-control": "no-store"})
        except MergeError:
            return Response(status_code=503, headers={"retry-after": "60"})
        if png is None:
            return Response(status_code=404)
        return Response(png, media_type="image/png", headers={"cache-control": "public, max-age=600"})

    blocks = build_page(desk)
    blocks.queue(default_concurrency_limit=AT_A_TIME, max_size=WAITING)
    options: dict[str, Any] = {
        "theme": theme(),
        "css_paths": HERE / "style.css",
        "favicon_path": HERE / "favicon.svg",
        "footer_links": ["api"],
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SSR mode")  # Gradio tells that it turns off what is off
        gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            show_error=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            max_file_size=UPLOAD_LIMIT,
            pwa=False,
            **options,
        )
    read_only_uploads(blocks)
    blocks.space_id = None  # with it, Gradio's script loads fonts and a badge from other sites
    blocks.config = blocks.get_config_file()  # anew: the first was made before the theme was known
    return app


def _header(desk: Desk, blocks: gr.Blocks, here: str) -> None:
    """The line at the top of every page: where one is, where one can go, who one is."""
    blocks.load(None, None, None, js=browser.PAGE_TITLE, api_visibility="private")
    with gr.Row(elem_classes="mm-header", equal_height=True):
        fragment(header_html(here))
        if desk.access.single_user:
            user = fragment(elem_id="user", elem_classes="mm-user")

            def greet(token: gr.OAuthToken | None, request: gr.Request) -> str:
                with spoken():
                    return greeting(desk, desk.hub(token, request))

            blocks.load(greet, None, user, show_progress="hidden", api_visibility="private")
        else:
            gr.LoginButton(
                "Sign in with Hugging Face", logout_value="Sign out ({})", size="sm", elem_id="sign-in", scale=0
            )


def greeting(desk: Desk, hub: Hub) -> str:
    """What the header says to the one user of this machine, also while the Hub is away."""
    try:
        identity = desk.identity_or_none(hub)
    except HubUnavailable:
        return AWAY
    return user_html(identity.name if identity else "")


def user_html(name: str) -> str:
    """Who the one user of this machine is."""
    if name:
        return f"<p>Signed in as <b>{render.text(name)}</b> on this machine</p>"
    return "<p>Not signed in: run <code>hf auth login</code> on this machine</p>"
