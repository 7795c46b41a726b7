"""The named endpoints for gradio_client. Widgets that are never shown carry the types and the defaults.

Every parameter after the picture has a default, so that
`client.predict(handle_file("a.jpg"), "a lake at sunset", api_name="/img2img")` is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from backend.errors import LatentRelayError
from backend.events import Result
from backend.job import MAX_SEED, MAX_SIDE, MAX_STEPS, SCHEDULERS, TRANSFERS, VAE_MODES, VaeOptions
from backend.latents import save_latents
from backend.models import MODELS, find_model
from backend.studio import Studio
from ui.decode import decode_file
from ui.encode import encode_picture, there_and_back
from ui.form import AS_ABOVE, Values, vae_options
from ui.recipe import save_png
from ui.runs import Runs
from ui.widgets import BY_THE_VAE, picture_input, uploads_only


def build(studio: Studio, runs: Runs) -> None:
    """Register the endpoints; must run inside the Blocks."""
    default = studio.default_model()[0].name

    def img2img(
        image: str,
        prompt: str = "",
        strength: float | None = None,
        model: str = default,
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
    ) -> tuple[str, str, dict[str, Any]]:
        """Picture and sentence to picture. Gives the PNG (with its recipe inside), the latents after painting, and
        {"recipe", "stages"}. A strength, steps or guidance left out follows the model."""
        values = Values(
            **{name: value for name, value in locals().items() if name in Values.__dataclass_fields__}
        )
        run = runs.start()
        try:
            result = None
            for event in studio.img2img(values.job(values.picture(find_model(model))), run.stop):
                if isinstance(event, Result):
                    result = event
            assert result is not None  # the last event of a run that raised nothing
            image, recipe, reports = result.image, result.recipe, result.reports
            picture = run.write(
                f"latent-relay-{recipe['seed']}.png", lambda path: save_png(path, image, recipe, reports)
            )
            painted = result.latents
            latents = run.write(
                "latents.safetensors", lambda path: save_latents(path, painted, find_model(model))
            )
        except LatentRelayError as error:
            raise gr.Error(error.sentence, print_exception=False) from error
        finally:
            run.stop.set()
            runs.finish(run)
        stages = [report.as_dict() for report in result.reports]
        return str(picture), str(latents), {"recipe": result.recipe, "stages": stages}

    def encode(
        image: str,
        model: str = default,
        mode: str = "auto",
        tile_size: int = 512,
        tile_overlap: int = 128,
        transfer: str = "uint8",
    ) -> tuple[str, str, dict[str, Any]]:
        """Picture to latents. Gives the safetensors file, a picture of its channels, and
        {"latents": statistics, "stages"}."""
        try:
            options = vae_options(_listed(mode), tile_size, tile_overlap, transfer)
            path, channels, stats, report, _ = encode_picture(studio, runs, image, model, options, "en")
        except LatentRelayError as error:
            raise gr.Error(error.sentence, print_exception=False) from error
        return str(path), str(channels), {"latents": stats, "stages": [report.as_dict()]}

    def decode(
        latents: str,
        mode: str = "auto",
        tile_size: int = 512,
        tile_overlap: int = 128,
        transfer: str = "uint8",
    ) -> tuple[str, dict[str, Any]]:
        """A latents file to a picture. Gives the PNG and {"model", "stages"}."""
        try:
            options = vae_options(_listed(mode), tile_size, tile_overlap, transfer)
            picture, file, report = decode_file(studio, runs, latents, options, "en")
        except LatentRelayError as error:
            raise gr.Error(error.sentence, print_exception=False) from error
        return str(picture), {"model": file.model, "stages": [report.as_dict()]}

    def round_trip(
        image: str,
        model: str = default,
        encode_mode: str = "auto",
        decode_mode: str = "auto",
        tile_size: int = 512,
        tile_overlap: int = 128,
        transfer: str = "uint8",
    ) -> tuple[str, dict[str, Any]]:
        """Encode and decode at once. Gives the picture that came back and {"psnr", "ssim", "stages"}; psnr is null
        for identical pictures."""
        try:
            there, back = (
                vae_options(_listed(mode), tile_size, tile_overlap, transfer)
                for mode in (encode_mode, decode_mode)
            )
            _, after, figures, reports = there_and_back(studio, runs, image, model, there, back, "en")
        except LatentRelayError as error:
            raise gr.Error(error.sentence, print_exception=False) from error
        psnr = None if figures["psnr"] == float("inf") else figures["psnr"]
        return str(after), {"psnr": psnr, "ssim": figures["ssim"], "stages": [r.as_dict() for r in reports]}

    with gr.Column(visible=False):

        def picture() -> gr.Image:
            return picture_input(label="image")

        def text(name: str, value: str = "") -> gr.Textbox:
            return gr.Textbox(value, label=name)

        def number(
            name: str, value: float | None, low: float, high: float, info: str = "", *, whole: bool = True
        ) -> gr.Number:
            field = gr.Number(
                value, label=name, info=info, precision=0 if whole else None, minimum=low, maximum=high
            )
            # The range is told to whoever asks what there is; a value outside gets the backend's sentence.
            field.preprocess = partial(_number, whole)  # type: ignore[method-assign]
            told = {"minimum": low, "maximum": high, "description": info or f"{low:g} to {high:g}"}
            known = field.api_info() | told
            field.api_info = lambda: known  # type: ignore[method-assign]
            return field

        def choice(name: str, choices: Sequence[str], value: str) -> gr.Dropdown:
            # A value that is no choice gets the backend's sentence, so it is let through here.
            return gr.Dropdown(list(choices), value=value, label=name, allow_custom_value=True)

        def mode(name: str = "mode") -> gr.Dropdown:
            return choice(name, VAE_MODES, "auto")

        def way() -> list[Any]:
            return [
                number("tile_size", 512, 64, MAX_SIDE, "Pixels"),
                number("tile_overlap", 128, 0, MAX_SIDE // 2, "Pixels, at most half a tile"),
                choice("transfer", TRANSFERS, "uint8"),
            ]

        def model() -> gr.Dropdown:
            return choice("model", [name for name, spec in MODELS.items() if spec.available], default)

        def results(*names: str) -> list[Any]:
            return [*(gr.File(label=name) for name in names), gr.JSON(label="report")]

        def expose(function: Any, inputs: list[Any], outputs: list[Any], **options: Any) -> None:
            gr.Button(function.__name__).click(
                function, inputs, outputs, api_name=function.__name__, **options
            )

        sizes = way()
        expose(
            img2img,
            [
                picture(),
                text("prompt"),
                number("strength", None, 0, 1, "empty follows the model", whole=False),
                model(),
                mode(),
                text("negative_prompt"),
                number("steps", None, 1, MAX_STEPS, "empty follows the model"),
                number("guidance", None, 0, 50, "empty follows the model", whole=False),
                number("seed", -1, -1, MAX_SEED, "-1 rolls the dice"),
                choice("scheduler", ("default", *SCHEDULERS), "default"),
                number("width", 0, 0, MAX_SIDE, "0 follows the picture"),
                number("height", 0, 0, MAX_SIDE, "0 follows the picture"),
                choice("fit", ("crop", "fit", "stretch"), "crop"),
                *sizes[:2],
                choice("encode_mode", (AS_ABOVE, *VAE_MODES), AS_ABOVE),
                choice("decode_mode", (AS_ABOVE, *VAE_MODES), AS_ABOVE),
                sizes[2],
            ],
            results("picture", "latents"),
            concurrency_limit=None,  # the studio's line has the limit
        )
        expose(encode, [picture(), model(), mode(), *way()], results("latents", "channels"), **BY_THE_VAE)
        expose(
            decode, [uploads_only(gr.File(label="latents")), mode(), *way()], results("picture"), **BY_THE_VAE
        )
        expose(
            round_trip,
            [picture(), model(), mode("encode_mode"), mode("decode_mode"), *way()],
            results("picture"),
            **BY_THE_VAE,
        )


def _listed(mode: str) -> str:
    """A caller's mode; keys of a page's own endpoints mean nothing here, so they are unknown modes."""
    VaeOptions(mode).checked()
    return mode


def _number(whole: bool, value: Any) -> float | None:
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
