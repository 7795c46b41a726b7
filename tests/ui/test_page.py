"""The page driven through its own events and its named endpoints, on a Studio that answers at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.data_classes import ImageData
from gradio.state_holder import SessionState
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from backend.errors import OutOfMemoryError
from backend.job import VAE_MODES
from backend.latents import load_latents
from tests.browser.launching import page_of
from tests.fakes import FakeStudio
from tests.following import follow_page
from tests.waiting import run_async, wait_until
from ui.form import Values
from ui.page import Page
from ui.runs import Runs
from ui.theme import ASSETS
from ui.widgets import picture_input, uploads_only

EXAMPLE = str(ASSETS / "mountains.png")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with page_of(FakeStudio(), tmp_path_factory.mktemp("runs")) as url:
        yield Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_a_picture_and_a_sentence_are_enough(client: Client) -> None:
    picture, latents, answer = client.predict(handle_file(EXAMPLE), "a lake at sunset", api_name="/img2img")
    assert answer["recipe"]["prompt"] == "a lake at sunset"
    assert [stage["stage"] for stage in answer["stages"]] == ["encode", "denoise", "decode"]
    with Image.open(picture) as image:
        assert image.size == (256, 256)
        assert "a lake at sunset" in image.text["parameters"]  # type: ignore[attr-defined]
    assert load_latents(Path(latents)).model == "builtin"


def test_every_parameter_can_be_said(client: Client) -> None:
    *_, answer = client.predict(
        handle_file(EXAMPLE),
        "x",
        strength=0.5,
        steps=30,
        guidance=3,
        seed=11,
        scheduler="DDIM",
        width=320,
        height=192,
        mode="tiled",
        decode_mode="whole",
        tile_size=128,
        tile_overlap=32,
        api_name="/img2img",
    )
    assert answer["recipe"] | {} == {
        "prompt": "x",
        "negative_prompt": "",
        "model": "builtin",
        "strength": 0.5,
        "num_inference_steps": 30,
        "guidance_scale": 3,
        "seed": 11,
        "scheduler": "DDIM",
        "width": 320,
        "height": 192,
        "encode_mode": "tiled",
        "decode_mode": "whole",
        "tile_size": 128,
        "tile_overlap": 32,
        "transfer": "uint8",
    }
    assert answer["stages"][1]["steps"] == 15


def test_parameters_are_numbers_and_choices_not_texts(client: Client) -> None:
    api = client.view_api(return_format="dict")
    assert isinstance(api, dict)
    kinds = {
        name: {one["parameter_name"]: one["type"] for one in endpoint["parameters"]}
        for name, endpoint in api["named_endpoints"].items()
    }
    assert set(kinds) == {"/img2img", "/encode", "/decode", "/round_trip"}
    parameters = kinds["/img2img"]
    assert (
        parameters["strength"]["type"],
        parameters["strength"]["minimum"],
        parameters["strength"]["maximum"],
    ) == (
        "number",
        0,
        1,
    )
    assert {
        name: parameters[name]["type"] for name in ("steps", "seed", "width", "tile_size")
    } == dict.fromkeys(("steps", "seed", "width", "tile_size"), "integer")
    assert tuple(parameters["mode"]["enum"]) == VAE_MODES and "same" in parameters["decode_mode"]["enum"]
    assert "builtin" in parameters["model"]["enum"] and parameters["fit"]["enum"] == [
        "crop",
        "fit",
        "stretch",
    ]
    texts = [name for name, kind in parameters.items() if kind == {"type": "string"}]
    assert texts == ["prompt", "negative_prompt"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": "many"}, "is not a whole number"),
        ({"steps": 2.5}, "is not a whole number"),
        ({"strength": "x"}, "not a number"),
        ({"transfer": "bmp"}, "do not travel"),
        ({"mode": "own:x"}, "no VAE mode called|does not know"),
    ],
)
def test_what_is_no_number_and_no_choice_is_said(
    client: Client, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AppError, match=sentence):
        client.predict(handle_file(EXAMPLE), "x", api_name="/img2img", **settings)


def test_encode_decode_and_round_trip(client: Client) -> None:
    latents, channels, answer = client.predict(handle_file(EXAMPLE), api_name="/encode")
    assert answer["latents"]["shape"] == [1, 4, 64, 64]
    with Image.open(channels) as image:
        assert image.width > 64
    picture, answer = client.predict(handle_file(latents), api_name="/decode")
    assert answer["model"] == "builtin"
    with Image.open(picture) as image:
        assert image.size == (256, 256)
    _, answer = client.predict(handle_file(EXAMPLE), api_name="/round_trip")
    assert answer["psnr"] > 0 and len(answer["stages"]) == 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mode": "sideways"}, "no VAE mode called"),
        ({"strength": 2}, "strength must be between"),
        ({"model": "dall-e"}, "no model called"),
        ({"width": 9}, "Width and height"),
        ({"tile_size": 1}, "tile size"),
    ],
)
def test_wrong_settings_get_a_sentence(client: Client, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AppError, match=sentence):
        client.predict(handle_file(EXAMPLE), "x", api_name="/img2img", **settings)


def test_a_file_that_is_no_picture_gets_a_sentence(client: Client, tmp_path: Path) -> None:
    note = tmp_path / "note.png"
    note.write_text("not a picture")
    with pytest.raises(AppError, match="not a picture that can be read"):
        client.predict(handle_file(note), "x", api_name="/img2img")
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\0\0\0\x18ftypheic" + bytes(32))
    with pytest.raises(AppError, match="HEIC"):
        client.predict(handle_file(photo), "x", api_name="/img2img")


def test_a_failure_says_what_happened(tmp_path: Path) -> None:
    studio = FakeStudio(fail={"decode": OutOfMemoryError("Too little memory.", "Try tiles.")})
    with page_of(studio, tmp_path) as url:
        client = Client(url, verbose=False)
        with pytest.raises(AppError, match=r"Too little memory\. Try tiles\."):
            client.predict(handle_file(EXAMPLE), "x", api_name="/img2img")


def test_a_quota_that_is_used_up_is_said_in_the_words_of_the_space(tmp_path: Path) -> None:
    """ZeroGPU tells of it by an error of Gradio's own, before anything runs."""
    studio = FakeStudio(fail={"encode": gr.Error("You have exceeded your GPU quota.")})  # type: ignore[dict-item]
    changes, view = follow_page(studio, Runs(tmp_path), Values(EXAMPLE, "a boat"))
    seen = []
    with pytest.raises(gr.Error, match="exceeded your GPU quota"):
        for change in changes:
            seen.append(change)
    assert "exceeded your GPU quota" in seen[-1][view.panel]
    assert seen[-1][view.start]["interactive"] is True


def test_the_modes_of_the_form_become_the_modes_of_the_job() -> None:
    values = Values(EXAMPLE, "x", mode="tiled", decode_mode="remote")
    assert (values.vae("encode").mode, values.vae("decode").mode) == ("tiled", "remote")


@pytest.mark.parametrize("mode", VAE_MODES)
def test_every_mode_the_backend_knows_has_its_sentence(mode: str) -> None:
    from ui.text import say

    assert say("en", f"mode_{mode}") and say("en", f"mode_name_{mode}")


def test_stopping_reaches_the_run_and_only_that_run(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    one, other = runs.start(), runs.start()
    runs.stop(one.id)
    runs.stop("someone else's guess")
    runs.stop(None)
    assert one.stop.is_set() and not other.stop.is_set()
    runs.finish(one)
    runs.finish(other)


def test_a_run_is_found_by_its_id_and_nothing_else_is(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    run = runs.start()
    (tmp_path / "secret-secret-secret").mkdir()
    assert runs.find(run.id) == run.folder
    for guess in ("", "..", "../secret-secret-secret", "/etc", "x" * 20):
        assert runs.find(guess) is None


def test_a_stop_in_the_middle_keeps_the_latents(tmp_path: Path) -> None:

    studio = FakeStudio(pause=0.05)
    runs = Runs(tmp_path)
    seen, view = follow_page(studio, runs, Values(EXAMPLE, "x"))
    first = next(seen)
    assert first[view.stop]["interactive"] is True
    changes: list[dict[Any, Any]] = []
    worker = threading.Thread(target=lambda: changes.extend(seen))
    worker.start()
    wait_until(lambda: any("step 2" in change.get(view.panel, "") for change in changes))
    runs.stop(first[view.run_id])
    worker.join(20)
    last = changes[-1]
    assert "Stopped" in last[view.panel]
    assert last[view.latents]["interactive"] is True
    assert last[view.start]["interactive"] is True


def test_no_message_of_a_run_alters_what_an_earlier_one_brought() -> None:
    """The browser applies an edit inside a value to that value itself, which it may not have looked at yet."""
    with Page() as page:
        shown = gr.JSON()
        gr.Button().click(lambda: iter(()), None, shown)
    (listener,) = page.fns.values()
    values: list[Any] = [{"after": "a.png"}, {"before": "sheet.png"}, {"__type__": "update"}]

    def run(name: str) -> list[Any]:
        return [
            *(
                page.handle_streaming_diffs(listener, [value], "session", name, final=False)
                for value in values
            ),
            page.handle_streaming_diffs(listener, [None], "session", name, final=True),
        ]

    replaced = [[[["replace", [], value]]] for value in values[1:]]
    for name in ("first", "second"):
        assert run(name) == [[values[0]], *replaced, [values[-1]]]


def test_a_visitors_session_describes_no_component_and_works_on_all() -> None:
    """Describing them all took a tenth of a second of the event loop and half a megabyte for each visitor."""
    with Page() as page:
        box = gr.Textbox("as it was")
    session = SessionState(page)
    assert not any(session.config_values.values()) and list(session.components) == []
    session._update_value_in_config(box._id, "a value")
    assert not any(session.config_values.values()), "values are not kept either"
    assert session[box._id] is box
    described = {block["id"]: block for block in page.get_config_file()["components"]}
    assert described[box._id]["props"]["value"] == "as it was"


def test_an_update_leaves_an_upload_closed_to_web_addresses(tmp_path: Path) -> None:
    """For any update of it, an empty one too, Gradio puts a new component in its place in the visitor's session."""
    with Page() as page:
        picture, file = picture_input(), uploads_only(gr.File())
        gr.Button().click(gr.skip, None, [picture, file])
    (listener,) = page.fns.values()
    session = SessionState(page)
    run_async(page.postprocess_data(listener, [gr.skip(), gr.update(label="Another")], session))
    for ours in (picture, file):
        theirs = session[ours._id]
        assert theirs is not ours, "Gradio leaves it as it is now: `keep_methods` can go"
        with pytest.raises(gr.Error, match="fetches nothing from the web"):
            run_async(theirs.async_move_resource_to_block_cache("http://127.0.0.1:1/a.png"))
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    payload = ImageData(path=str(broken))
    assert session[picture._id].preprocess(payload) == str(broken), "the file itself, to be judged by us"
