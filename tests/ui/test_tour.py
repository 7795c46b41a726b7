"""The tour's work and slides, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from backend.errors import OutOfMemoryError
from backend.models import SD_V1
from backend.settings import EndpointPair, Settings
from backend.studio import Studio
from tests.fakes import FakeStudio
from ui import img2img, story, tour
from ui.pictures import picture_route
from ui.runs import Runs
from ui.tab import PageContext
from ui.theme import ASSETS
from ui.user_endpoints import UserEndpoints

ENGLISH = gr.Request(headers={"accept-language": "en"})


def slides_of(
    studio: Any,
    folder: Path,
    picture: str | None = None,
    prompt: str = "",
    into: list[list[dict[str, Any]]] | None = None,
) -> list[list[dict[str, Any]]]:
    """Each state of the slides that a tour went through."""
    context = PageContext(studio, Runs(folder), UserEndpoints())
    with gr.Blocks():
        main = img2img.build(context)
        guide = tour.build(context, main.form, gr.Button())
    data = {main.form.image: picture, main.form.prompt: prompt}
    states = [] if into is None else into
    for change in guide.frame.follow(guide._travel, data, ENGLISH):
        if guide.slides in change:
            states.append(change[guide.slides]["slides"])
    return states


def test_every_way_has_its_numbers_its_place_and_its_map(tmp_path: Path) -> None:
    states = slides_of(FakeStudio(), tmp_path)
    assert [slide.get("waiting") for slide in states[0]] == [None, True, True, True, True, True]
    start, whole, tiled, streamed, remote, end = states[-1]
    assert all(slide["figures"][0][1] == "to decode" for slide in (whole, tiled, streamed, remote))
    assert whole["figures"][1] == ("32 MB", "extra memory") and whole["pictures"][0][1] == "Before"
    assert remote["figures"][1][1] == "over the network" and "vae.example.org" in remote["note"]
    for slide in (tiled, streamed, remote):
        assert slide["pictures"][1][1] == "Difference from whole"
        assert slide["figures"][-1] == ("none", "largest difference")
    run_id = end["story"].split("/")[1]
    with Image.open(tmp_path / run_id / "whole.png") as picture:
        assert picture.size == (512, 512), "as the first slide says"
    with Image.open(tmp_path / run_id / "tour.png") as picture:
        assert picture.size == story.SIZE
    for address in (
        start["pictures"][0][0],
        *(shown for slide in (tiled, remote) for shown, _ in slide["pictures"]),
    ):
        assert picture_route(tmp_path).matches({"type": "http", "path": f"/{address}", "method": "GET"})[1]
        assert (tmp_path / run_id / address.rpartition("/")[2]).is_file()


def test_a_way_that_fails_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    class Full(FakeStudio):
        def decode(self, latents: Any, model: str, options: Any, *more: Any, **named: Any) -> Any:
            if options.mode == "whole":
                raise OutOfMemoryError("Too little memory.", "Try tiles.")
            return super().decode(latents, model, options, *more, **named)

    _, whole, tiled, *_, end = slides_of(Full(), tmp_path)[-1]
    assert whole["note"] == "Too little memory. Try tiles." and "figures" not in whole
    assert len(tiled["pictures"]) == 1, "nothing to differ from"
    assert tiled["figures"] and end["story"]


def test_a_failure_before_that_is_on_the_slides_too(tmp_path: Path) -> None:
    """They lie over whatever else would say so."""
    states: list[list[dict[str, Any]]] = []
    studio = FakeStudio(fail={"encode": OutOfMemoryError("Too little memory.", "Try tiles.")})
    with pytest.raises(gr.Error, match="Too little memory"):
        slides_of(studio, tmp_path, into=states)
    assert states[-1][1]["note"] == "Too little memory. Try tiles."


def test_it_takes_the_visitors_picture_and_words_and_else_the_example(tmp_path: Path) -> None:
    studio = FakeStudio()
    slides_of(studio, tmp_path, str(ASSETS / "castle.png"), "a castle")
    slides_of(studio, tmp_path)
    assert [job.prompt for job in studio.jobs] == ["a castle", "a boat on the sea at sunset"]
    sizes = [(job.width, job.height) for job in map(studio.resolve, studio.jobs)]
    assert sizes == [(512, 512)] * 2, "and is worked at that size"


@pytest.mark.parametrize("size", [(300, 200), (33, 900), (4000, 3000)])
def test_the_picture_has_a_size_that_the_model_can_have(size: tuple[int, int]) -> None:
    resized = tour.resized(Image.new("RGB", size), SD_V1)
    assert max(resized.size) == 512 and all(side % 8 == 0 and side > 0 for side in resized.size)


def test_nothing_goes_to_a_familys_public_endpoint() -> None:
    """Nobody chose it: without one that the owner configured, the app's own serves."""
    studio = Studio(Settings(device="cpu"))
    studio.self_url = "http://127.0.0.1:7860/"
    assert studio.settings.default_endpoints(SD_V1).decode, "there is one"
    own = tour.remote_endpoint(studio, SD_V1)
    assert own is not None and own.decode == "http://127.0.0.1:7860/vae/sd-v1/decode"
    theirs = Studio(
        Settings(
            device="cpu", endpoints={"sd-v1": EndpointPair("http://gpu-box:7861/e", "http://gpu-box:7861/d")}
        )
    )
    assert tour.remote_endpoint(theirs, SD_V1) is None
