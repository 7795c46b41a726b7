"""Latent Relay: `python app.py` reads the settings, opens the page, and warms the model up behind it.

The page and the VAE routes share one process and one port, so every running app can be another app's remote VAE.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

# Libraries read these when they are imported, so they come first. Anything the owner has set stays as it is.
for name, value in {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SSR_MODE": "False",  # Node would answer in place of the VAE routes
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}.items():
    os.environ.setdefault(name, value)

from backend.errors import LatentRelayError
from backend.lazy_import import garbage_collection_paused
from backend.logs import log_json_lines
from backend.run.zero_gpu import spaces_gpu
from backend.settings import Settings, read_command_line
from backend.studio import Studio

_HUB_RETRY_SECONDS = 60.0
"""Between two questions to a hub that did not answer, about what the page may offer."""


def main() -> int:
    """Run until stopped, or until the doctor is done; 2 if the settings make no sense, as argparse does."""
    try:
        command = read_command_line()
    except LatentRelayError as error:
        print(f"app.py: {error.sentence}", file=sys.stderr)
        return 2
    if command.doctor:
        from backend.doctor.examine import print_findings

        return print_findings(command.settings, pictures_folder(command.settings), as_data=command.json)
    log_json_lines()
    serve(command.settings)
    return 0


def pictures_folder(settings: Settings) -> Path:
    """Where the page keeps pictures and latents."""
    return _folder(settings) / "pictures"


def _folder(settings: Settings) -> Path:
    return (settings.folder or Path(__file__).parent / "runs").resolve()


def serve(settings: Settings, *, block: bool = True) -> tuple[Studio, str]:
    """Open the page and the VAE routes; returns the studio and the local URL (at once if not `block`)."""
    pictures, temp = pictures_folder(settings), _folder(settings) / "temp"
    # Gradio reads it when it is imported, which `spaces` does: its copies of uploads and results are cleaned away with
    # the rest.
    ours = os.environ.setdefault("GRADIO_TEMP_DIR", str(temp)) == str(temp)
    gpu = spaces_gpu(os.environ)  # before anything imports torch
    with garbage_collection_paused():
        from ui.cleaning import Retention
        from ui.page import build_page, launch_options
        from ui.runs import Runs

    studio = Studio(settings, gpu)
    if gpu is not None:
        # The process that has the GPU is a fork of this one and finds what is loaded here.
        _say_failure(studio.preload)
    runs = Runs(pictures, Retention(settings.keep_days, settings.keep_gb), temp if ours else None)
    studio.downloads.looking = gpu is None
    page = build_page(studio, runs)
    _, local_url, _ = page.launch(
        server_name=settings.host,
        server_port=settings.port,
        share=settings.share,
        prevent_thread_lock=True,
        ssr_mode=False,
        enable_monitoring=False,
        **launch_options(runs, studio),
    )
    studio.self_url = local_url
    if gpu is None:
        threading.Thread(target=_say_failure, args=(studio.warm_up,), name="warm-up", daemon=True).start()
        threading.Thread(target=_look_for_better, args=(studio,), name="first-start", daemon=True).start()
    threading.Thread(target=runs.cleanup_loop, name="cleanup", daemon=True).start()
    if block:
        page.block_thread()
    return studio, local_url


def _look_for_better(studio: Studio) -> None:
    """For as long as the hub does not answer, that is as long as the app runs."""
    never = threading.Event()
    _say_failure(lambda: studio.look_for_better(lambda: not never.wait(_HUB_RETRY_SECONDS)))


def _say_failure(work: Callable[[], None]) -> None:
    """Run it; the first job would report the failure properly."""
    try:
        work()
    except LatentRelayError as error:
        print(f"Not ready yet: {error.sentence}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
