"""The service's entrance: the page, and one worker process beside it.

python app.py        on one's own machine: http://127.0.0.1:7860, with the token of `hf auth login`
on a Space           people sign in with Hugging Face; MERGE_SECRET_KEY must be a secret of the Space
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from jobs.child import keep_memory_private
from jobs.logs import set_up_logs
from jobs.service import JobService
from jobs.tokens import raise_if_weak
from jobs.try_it import TryIt
from merging.device import pick_device
from merging.errors import InputError
from settings import Settings, parse_size
from ui.desk import Desk
from ui.page import build_app
from ui.security import LOOPBACK, Access
from ui.uploads import Uploads

WORKER = (sys.executable, str(Path(__file__).with_name("cli.py")), "worker", "--beside-page")
LONGEST_WAIT = 60.0  # seconds between two starts of a worker that keeps ending
NOT_THE_WORKERS = ("OAUTH_CLIENT_SECRET", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # jobs bring their own token
PATIENCE = 4.0  # seconds that a worker may take to end
GOOD_RUN = 30.0  # seconds after which a worker counts as having started well
log = logging.getLogger("app")


class WorkerKeeper:
    """Keeps one worker process alive: started anew when it ends, each time later if it ends at once."""

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        self._command = command
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        """Start it in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End the worker; what it was doing goes on with the next one."""
        self._ending.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(5)

    def _keep(self) -> None:
        wait = 1.0
        while not self._ending.is_set():
            started = time.monotonic()
            environment = {name: value for name, value in os.environ.items() if name not in NOT_THE_WORKERS}
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, env=environment)  # closes with us
            while self._process.poll() is None and not self._ending.wait(0.2):
                pass
            if self._ending.is_set():
                return
            wait = 1.0 if time.monotonic() - started > GOOD_RUN else min(LONGEST_WAIT, wait * 2)
            log.warning("the worker ended with %s, the next one starts in %.0f s", self._process.returncode, wait)
            self._ending.wait(wait)


def check_start(settings: Settings, *, on_space: bool, sign_in: bool) -> None:
    """Refuse a start that would not be safe, or would serve nobody. Raises InputError."""
    pick_device(settings.device, "MERGE_DEVICE")  # its worker would not start
    if on_space and settings.secret_key is None:
        raise InputError(
            "MERGE_SECRET_KEY is not set",
            "a Space encrypts the tokens of waiting jobs with it",
            "Add it as a secret of the Space (`make space` does)",
        )
    if settings.secret_key is not None:
        raise_if_weak(settings.secret_key.get_secret_value())
    if on_space and not sign_in:
        raise InputError(
            "This Space has no sign-in",
            "OAUTH_CLIENT_ID or OAUTH_CLIENT_SECRET, which signs the cookies, is not set",
            "Add `hf_oauth: true` to the front matter of its README",
        )
    if not on_space and settings.host not in LOOPBACK:
        raise InputError(
            f"MERGE_HOST is {settings.host}",
            "without sign-in this page acts with the token of this machine, for whoever can reach it",
            "Leave it at 127.0.0.1, or run it as a Space",
        )


def main() -> None:
    """Serve until a signal says stop."""
    keep_memory_private()
    settings = Settings()
    set_up_logs(settings.log)
    on_space = os.environ.get("SYSTEM") == "spaces" and bool(os.environ.get("SPACE_ID"))
    sign_in = all(os.environ.get(name) for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET"))
    check_start(settings, on_space=on_space, sign_in=sign_in)
    space_hosts = [f"https://{name.strip()}" for name in os.environ.get("SPACE_HOST", "").split(",") if name.strip()]
    public = settings.public_url or (space_hosts[0] if space_hosts else "")
    if public:
        os.environ.setdefault("MERGE_PUBLIC_URL", public)  # the worker puts it on cards
    service = JobService(settings)
    trying = None if settings.try_limit == "off" else TryIt(settings)
    desk = Desk(
        service,
        Access(endpoint=None, single_user=not on_space, proxies=settings.proxies),
        public,
        settings.examples,
        trying,
    )
    origins = frozenset({*space_hosts, *([public.rstrip("/")] if public else [])})
    site = "https://huggingface.co" if space_hosts else ""
    host = "0.0.0.0" if space_hosts else settings.host  # a Space's own proxy is the only one that reaches it
    app = build_app(desk, origins=origins, site=site, uploads=uploads_of(settings))
    try:
        serve(app, host, settings.port, behind_proxy=bool(space_hosts))
    finally:
        if trying is not None:
            trying.close()


def uploads_of(settings: Settings) -> Uploads:
    """The folder of uploads, looked after from now on; in the home folder unless GRADIO_TEMP_DIR names another."""
    os.environ.setdefault("GRADIO_TEMP_DIR", str(settings.home.expanduser() / "uploads"))
    folder, most, reserve = Path(os.environ["GRADIO_TEMP_DIR"]), settings.uploads, settings.disk_reserve
    uploads = Uploads(folder, parse_size(most), settings.upload_hours, parse_size(reserve))
    uploads.keep_swept()
    return uploads


def serve(app: object, host: str, port: int, *, behind_proxy: bool) -> None:
    """The page with a worker beside it; says where it is once it listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle on: 40 ms
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)  # whoever comes at once waits for the page, instead of being refused
    except OSError as error:
        raise InputError(f"Port {port} cannot be used", error.strerror or "", "Set MERGE_PORT") from None
    keeper = WorkerKeeper()
    server = uvicorn.Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_level="warning",
            access_log=False,
            forwarded_allow_ips="*" if behind_proxy else None,
            timeout_graceful_shutdown=2,
        )
    )

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    signal.signal(signal.SIGTERM, end)
    keeper.start()
    print(f"Merge My Models is open at http://{host}:{listener.getsockname()[1]}", flush=True)
    try:
        server.run(sockets=[listener])
    finally:
        keeper.stop()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        pass
