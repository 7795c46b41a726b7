"""The named endpoints for gradio_client. Widgets that are never shown carry the types and the defaults.

Every parameter after the picture has a default, so that
`client.predict(handle_file("a.jpg"), "a lake at sunset", api_name="/img2img")` is enough.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from backend.errors import LatentRelayError
from backend.job import SCHEDULERS, VAE_MODES, Result
from backend.latents import save_latents
from backend.models import MODELS, find_model
from backend.studio import Studio
from ui.decode import decode_file
from ui.encode import encode_picture, there_and_back
from ui.form import AS_ABOVE, Values, vae_options
from ui.recipe import save_png
from ui.runs import Runs
from ui.widgets import BY_THE_VAE, picture_input, uploads_only

_MODES = "One of " + ", ".join(VAE_MODES)


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
    ) -> tuple[str, str, dict[str, Any]]:
        """Picture and sentence to picture. Gives the PNG (with its recipe inside), the latents after painting, and
        {"recipe", "stages"}. A strength, steps or guidance left out follows the model."""
        values = Values(
            **{name: value for name, value in locals().items() if name in Values.__dataclass_fields__}
        )
        run = runs.start()
        try:
            result = None
            for event in studio.img2img(values.job(values.picture()), run.stop):
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
        image: str, model: str = default, mode: str = "auto", tile_size: int = 512, tile_overlap: int = 128
    ) -> tuple[str, str, dict[str, Any]]:
        """Picture to latents. Gives the safetensors file, a picture of its channels, and
        {"latents": statistics, "stages"}."""
        try:
            options = vae_options(mode, tile_size, tile_overlap).checked()
            path, channels, stats, report, _ = encode_picture(studio, runs, image, model, options, "en")
        except LatentRelayError as error:
            raise gr.Error(error.sentence, print_exception=False) from error
        return str(path), str(channels), {"latents": stats, "stages": [report.as_dict()]}

    def decode(
        latents: str, mode: str = "auto", tile_size: int = 512, tile_overlap: int = 128
    ) -> tuple[str, dict[str, Any]]:
        """A latents file to a picture. Gives the PNG and {"model", "stages"}."""
        try:
            options = vae_options(mode, tile_size, tile_overlap).checked()
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
    ) -> tuple[str, dict[str, Any]]:
        """Encode and decode at once. Gives the picture that came back and {"psnr", "ssim", "stages"}; psnr is null
        for identical pictures."""
        try:
            there, back = (
                vae_options(mode, tile_size, tile_overlap).checked() for mode in (encode_mode, decode_mode)
            )
            _, after, figures, reports = there_and_back(studio, runs, image, model, there, back, "en")
        except LatentRelayError as error:
            raise gr.Error(error.sentence, print_exception=False) from error
        psnr = None if figures["psnr"] == float("inf") else figures["psnr"]
        return str(after), {"psnr": psnr, "ssim": figures["ssim"], "stages": [r.as_dict() for r in reports]}

    with gr.Column(visible=False):

        def picture() -> gr.Image:
            return picture_input(label="image")

        def text(name: str, value: str | None, info: str = "") -> gr.Textbox:
            return gr.Textbox(value, label=name, info=info)

        def number(name: str, value: float | None, info: str = "") -> gr.Number:
            return gr.Number(value, label=name, info=info)

        def sizes() -> list[gr.Number]:
            return [number("tile_size", 512, "Pixels"), number("tile_overlap", 128, "Pixels")]

        def model() -> gr.Textbox:
            return text("model", default, "One of " + ", ".join(n for n, s in MODELS.items() if s.available))

        def results(*names: str) -> list[Any]:
            return [*(gr.File(label=name) for name in names), gr.JSON(label="report")]

        def expose(function: Any, inputs: list[Any], outputs: list[Any], **options: Any) -> None:
            gr.Button(function.__name__).click(
                function, inputs, outputs, api_name=function.__name__, **options
            )

        expose(
            img2img,
            [
                picture(),
                text("prompt", ""),
                number("strength", None, "0 to 1; empty follows the model"),
                model(),
                text("mode", "auto", _MODES),
                text("negative_prompt", ""),
                number("steps", None, "empty follows the model"),
                number("guidance", None, "empty follows the model"),
                number("seed", -1, "-1 rolls the dice"),
                text("scheduler", "default", "default, " + ", ".join(SCHEDULERS)),
                number("width", 0, "0 follows the picture"),
                number("height", 0, "0 follows the picture"),
                text("fit", "crop", "crop, fit or stretch"),
                *sizes(),
                text("encode_mode", AS_ABOVE, f"{AS_ABOVE} (as `mode`), or {_MODES.lower()}"),
                text("decode_mode", AS_ABOVE, f"{AS_ABOVE} (as `mode`), or {_MODES.lower()}"),
            ],
            results("picture", "latents"),
            concurrency_limit=None,  # the studio's line has the limit
        )
        expose(
            encode,
            [picture(), model(), text("mode", "auto", _MODES), *sizes()],
            results("latents", "channels"),
            **BY_THE_VAE,
        )
        expose(
            decode,
            [uploads_only(gr.File(label="latents")), text("mode", "auto", _MODES), *sizes()],
            results("picture"),
            **BY_THE_VAE,
        )
        expose(
            round_trip,
            [
                picture(),
                model(),
                text("encode_mode", "auto", _MODES),
                text("decode_mode", "auto", _MODES),
                *sizes(),
            ],
            results("picture"),
            **BY_THE_VAE,
        )
