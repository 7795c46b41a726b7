"""The named endpoints for gradio_client. Widgets that are never shown carry the types and the defaults.

Every parameter after the picture has a default, so that
`client.predict(handle_file("a.jpg"), "a lake at sunset", api_name="/img2img")` is enough.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.context import LocalContext

from backend.errors import LatentRelayError
from backend.events import Result
from backend.job import MAX_SEED, MAX_SIDE, MAX_STEPS, SCHEDULERS, TRANSFERS, VAE_MODES, VaeOptions
from backend.latents import save_latents
from backend.run.stream import HEARTBEAT_SECONDS
from ui.decode import decode_file
from ui.encode import encode_picture, there_and_back
from ui.form import AS_ABOVE, Values, vae_options
from ui.frame import one_run
from ui.recipe import save_png
from ui.runs import Run
from ui.tab import PageContext
from ui.widgets import BY_THE_VAE, picture_input, uploads_only

Report = dict[str, Any]
_MODEL = "builtin"
"""A default for Python; a caller gets that of the hidden widget, which is this machine's."""


@dataclass(frozen=True)
class Api:
    """The functions behind the endpoints. Names, parameters and results are a contract."""

    context: PageContext

    def img2img(
        self,
        image: str,
        prompt: str = "",
        strength: float | None = None,
        model: str = _MODEL,
        mode: str = "auto",
        negative_prompt: str = "",
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = -1,
        scheduler: str = "default",
        width: int = 0,
        height: int = 0,
        fit: str = "crop",
        tile_size: int = 512,
        tile_overlap: int = 128,
        encode_mode: str = AS_ABOVE,
        decode_mode: str = AS_ABOVE,
        transfer: str = "uint8",
    ) -> tuple[str, str, Report]:
        """Picture and sentence to picture. Gives the PNG (with its recipe inside), the latents after painting, and
        {"recipe", "stages"}. A strength, steps or guidance left out follows the model."""
        given = {name: value for name, value in locals().items() if name in Values.__dataclass_fields__}
        values, studio = Values(**given), self.context.studio
        with self._run() as run:
            for result in studio.img2img(values.job(values.picture(studio.find_model(model))), run.stop):  # noqa: B007 - the last one counts
                pass
            assert isinstance(result, Result)  # as the last event of a run that raised nothing is
            picture = run.write(
                f"latent-relay-{result.recipe['seed']}.png",
                lambda path: save_png(path, result.image, result.recipe, result.reports),
            )
            spec = studio.find_model(model)
            latents = run.write("latents.safetensors", lambda path: save_latents(path, result.latents, spec))
        stages = [report.as_dict() for report in result.reports]
        return str(picture), str(latents), {"recipe": result.recipe, "stages": stages}

    def encode(
        self,
        image: str,
        model: str = _MODEL,
        mode: str = "auto",
        tile_size: int = 512,
        tile_overlap: int = 128,
        transfer: str = "uint8",
    ) -> tuple[str, str, Report]:
        """Picture to latents. Gives the safetensors file, a picture of its channels, and
        {"latents": statistics, "stages"}."""
        with self._run() as run:
            options = _options(mode, tile_size, tile_overlap, transfer)
            done = encode_picture(self.context.studio, run, image, model, options, "en")
        report = {"latents": done.statistics, "stages": [done.report.as_dict()]}
        return str(done.file), str(done.channels), report

    def decode(
        self,
        latents: str,
        mode: str = "auto",
        tile_size: int = 512,
        tile_overlap: int = 128,
        transfer: str = "uint8",
        model: str = "",
    ) -> tuple[str, Report]:
        """A latents file, ours, ComfyUI's or a plain tensor in safetensors, to a picture; `model` counts where the file
        does not say its own. Gives the PNG and {"model", "stages"}."""
        with self._run() as run:
            options = _options(mode, tile_size, tile_overlap, transfer)
            done = decode_file(self.context.studio, run, latents, options, "en", named=model or None)
        return str(done.picture), {"model": done.file.model, "stages": [done.report.as_dict()]}

    def round_trip(
        self,
        image: str,
        model: str = _MODEL,
        encode_mode: str = "auto",
        decode_mode: str = "auto",
        tile_size: int = 512,
        tile_overlap: int = 128,
        transfer: str = "uint8",
    ) -> tuple[str, Report]:
        """Encode and decode at once. Gives the picture that came back and {"psnr", "ssim", "stages"}; psnr is null
        for identical pictures."""
        with self._run() as run:
            there = _options(encode_mode, tile_size, tile_overlap, transfer)
            back = _options(decode_mode, tile_size, tile_overlap, transfer)
            done = there_and_back(self.context.studio, run, image, model, there, back, "en")
        psnr = None if done.figures["psnr"] == float("inf") else done.figures["psnr"]
        stages = [report.as_dict() for report in done.reports]
        return str(done.after), {"psnr": psnr, "ssim": done.figures["ssim"], "stages": stages}

    @contextmanager
    def _run(self) -> Iterator[Run]:
        """Raises gr.Error: a failure in one English sentence."""
        try:
            with one_run(self.context.runs) as run:
                _stop_when_left(run)
                yield run
        except LatentRelayError as error:
            raise gr.Error(error.sentence, print_exception=False) from error


def _stop_when_left(run: Run) -> None:
    """Stop the run once whoever called is gone. Gradio does that for generators, by closing them, and for nothing else;
    of a call that is not in its queue it knows nothing."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event_id is None:
        return
    events = blocks._queue.event_ids_to_events
    event = events.get(event_id)

    def watch() -> None:
        while not run.stop.wait(HEARTBEAT_SECONDS):  # which is set when the run is over
            if event is not events.get(event_id) or (event is not None and not event.alive):
                run.stop.set()

    threading.Thread(target=watch, name="left", daemon=True).start()


def build(context: PageContext) -> None:
    """Register the endpoints; must run inside the Blocks."""
    api, studio = Api(context), context.studio
    default = studio.default_model()[0].name
    models = [name for name, spec in studio.models.items() if spec.available]

    def model() -> gr.Dropdown:
        return _choice("model", models, default)

    def mode(name: str = "mode") -> gr.Dropdown:
        return _choice(name, VAE_MODES, "auto")

    with gr.Column(visible=False):
        tile_size, tile_overlap, transfer = _tiles_and_transfer()
        _expose(
            api.img2img,
            [
                picture_input(label="image"),
                gr.Textbox("", label="prompt"),
                _number("strength", None, 0, 1, "empty follows the model", whole=False),
                model(),
                mode(),
                gr.Textbox("", label="negative_prompt"),
                _number("steps", None, 1, MAX_STEPS, "empty follows the model"),
                _number("guidance", None, 0, 50, "empty follows the model", whole=False),
                _number("seed", -1, -1, MAX_SEED, "-1 rolls the dice"),
                _choice("scheduler", ("default", *SCHEDULERS), "default"),
                _number("width", 0, 0, MAX_SIDE, "0 follows the picture"),
                _number("height", 0, 0, MAX_SIDE, "0 follows the picture"),
                _choice("fit", ("crop", "fit", "stretch"), "crop"),
                tile_size,
                tile_overlap,
                _choice("encode_mode", (AS_ABOVE, *VAE_MODES), AS_ABOVE),
                _choice("decode_mode", (AS_ABOVE, *VAE_MODES), AS_ABOVE),
                transfer,
            ],
            ("picture", "latents"),
            concurrency_limit=None,  # the studio's job queue has the limit
        )
        image = picture_input(label="image")
        inputs = [image, model(), mode(), *_tiles_and_transfer()]
        _expose(api.encode, inputs, ("latents", "channels"), **BY_THE_VAE)
        named = _choice("model", ["", *models], "")
        inputs = [uploads_only(gr.File(label="latents")), mode(), *_tiles_and_transfer(), named]
        _expose(api.decode, inputs, ("picture",), **BY_THE_VAE)
        modes = mode("encode_mode"), mode("decode_mode")
        inputs = [picture_input(label="image"), model(), *modes, *_tiles_and_transfer()]
        _expose(api.round_trip, inputs, ("picture",), **BY_THE_VAE)


def _expose(
    function: Callable[..., Any], inputs: list[Component], files: Sequence[str], **options: Any
) -> None:
    """`function` as an endpoint of its name, which gives `files` and a report."""
    name = function.__name__
    outputs = [*(gr.File(label=file) for file in files), gr.JSON(label="report")]
    gr.Button(name).click(function, inputs, outputs, api_name=name, **options)


def _number(
    name: str, value: float | None, low: float, high: float, info: str = "", *, whole: bool = True
) -> gr.Number:
    field = gr.Number(value, label=name, info=info, precision=0 if whole else None, minimum=low, maximum=high)
    # The range is in the API's description only; a value outside gets the backend's sentence.
    field.preprocess = partial(_checked_number, whole)  # type: ignore[method-assign]
    known = field.api_info()
    known |= {"minimum": low, "maximum": high, "description": info or f"{low:g} to {high:g}"}
    field.api_info = lambda: known  # type: ignore[method-assign]
    return field


def _choice(name: str, choices: Sequence[str], value: str) -> gr.Dropdown:
    # A value that is no choice gets the backend's sentence, so it is let through here.
    return gr.Dropdown(list(choices), value=value, label=name, allow_custom_value=True)


def _tiles_and_transfer() -> tuple[gr.Number, gr.Number, gr.Dropdown]:
    return (
        _number("tile_size", 512, 64, MAX_SIDE, "Pixels"),
        _number("tile_overlap", 128, 0, MAX_SIDE // 2, "Pixels, at most half a tile"),
        _choice("transfer", TRANSFERS, "uint8"),
    )


def _options(mode: str, tile_size: int, tile_overlap: int, transfer: str) -> VaeOptions:
    """A caller's mode and sizes, checked; keys of visitors' endpoints mean nothing here, so they are unknown modes.

    Raises:
        BadSettingError: no such mode, or sizes that make no sense.
    """
    VaeOptions(mode).checked()
    return vae_options(mode, tile_size, tile_overlap, transfer)


def _checked_number(whole: bool, value: Any) -> float | None:
    """What a caller sent; JSON knows neither whole numbers nor nothing at all.

    Raises:
        gr.Error: not a number, or not a whole one where one is needed.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and value % 1):
        raise gr.Error(
            f"“{str(value)[:40]}” is not a {'whole ' if whole else ''}number.", print_exception=False
        )
    return int(value) if whole else value
