"""What other programs write into pictures, in the form in which they write it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from backend import comfyui
from backend.job import Job
from backend.models import MODELS
from ui.recipe import parameters_text, settings_in
from ui.recipe_formats import Restored, parse_invokeai, parse_parameters

ROOT = Path(__file__).parents[2]


def read(folder: Path, **chunks: str) -> Restored | None:
    """What the page makes of a PNG with these text chunks."""
    info = PngInfo()
    for name, text in chunks.items():
        info.add_text(name, text)
    Image.new("RGB", (8, 8)).save(folder / "a.png", pnginfo=info)
    return settings_in(folder / "a.png", MODELS)


# -- AUTOMATIC1111 -------------------------------------------------------------------------------------------------

A1111 = (
    "a barn,\nred\nNegative prompt: people, text\n"
    "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 4242, Size: 512x384, "
    'Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.4, Lora hashes: "a: b, c: d", '
    "Version: v1.10.1"
)
A1111_SETTINGS = {
    "prompt": "a barn,\nred",
    "negative_prompt": "people, text",
    "steps": 25,
    "guidance": 6.5,
    "seed": 4242,
    "strength": 0.4,
    "width": 512,
    "height": 384,
    "scheduler": "DPM++ 2M",
}


def test_the_text_of_automatic1111_and_our_own_text_are_read(tmp_path: Path) -> None:
    theirs = Restored(A1111_SETTINGS, "AUTOMATIC1111", "v1-5-pruned-emaonly")
    assert read(tmp_path, parameters=A1111) == theirs
    recipe = Job(Image.new("RGB", (64, 64)), "a lake, “quiet”", seed=7).resolve(MODELS["builtin"]).recipe()
    ours = parse_parameters(parameters_text(recipe))
    assert (ours.program, ours.model) == ("Latent Relay", None)
    assert (ours.settings["prompt"], ours.settings["seed"], ours.settings["scheduler"]) == (
        "a lake, “quiet”",
        7,
        "default",
    )


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_automatic1111_has_its_text_in_the_exif_of_other_pictures(tmp_path: Path, suffix: str) -> None:
    """As piexif's `UserComment.dump(text, encoding="unicode")` writes it."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[0x9286] = b"UNICODE\0" + A1111.encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}", exif=exif)
    found = settings_in(tmp_path / f"a.{suffix}", MODELS)
    assert found is not None and found.settings == A1111_SETTINGS


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Euler a", "Euler a"),
        ("Euler", "Euler"),
        ("DPM++ 2M Karras", "DPM++ 2M"),
        ("DPM++ 2M SDE Karras", "default"),
        ("DPM++ 2S a", "default"),
        ("LMS Karras", "LMS"),
        ("PLMS", "PNDM"),
        ("DDIM CFG++", "default"),
        ("Heun", "default"),
    ],
)
def test_a_sampler_is_taken_only_if_it_is_the_same_one(theirs: str, ours: str) -> None:
    assert parse_parameters(f"x\nSteps: 9, Sampler: {theirs}").settings["scheduler"] == ours


def test_what_stands_behind_four_thousand_letters_is_not_read() -> None:
    long = f"x\nSteps: 9, Version: {'v' * 4100}, Seed: 5"
    assert parse_parameters(long).settings == {
        "prompt": "x",
        "negative_prompt": "",
        "steps": 9,
        "scheduler": "default",
    }


# -- ComfyUI -------------------------------------------------------------------------------------------------------

Nodes = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def painted_over() -> Nodes:
    """ComfyUI's own example of image to image, with the ids that its page gives."""
    return {
        "3": node(
            "KSampler", seed=280823642470253, steps=20, cfg=8.0, sampler_name="dpmpp_2m", scheduler="normal",
            denoise=0.87, model=["14", 0], positive=["6", 0], negative=["7", 0], latent_image=["12", 0],
        ),
        "6": node("CLIPTextEncode", text="victorian woman, seated", clip=["14", 1]),
        "7": node("CLIPTextEncode", text="watermark, text", clip=["14", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["14", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
        "10": node("LoadImage", image="example.png", upload="image"),
        "12": node("VAEEncode", pixels=["10", 0], vae=["14", 2]),
        "14": node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors"),
    }  # fmt: skip


def from_words() -> Nodes:
    nodes = painted_over()
    nodes["3"]["inputs"] |= {"denoise": 1, "latent_image": ["5", 0], "sampler_name": "euler_ancestral"}
    nodes["5"] = node("EmptyLatentImage", width=768, height=512, batch_size=1)
    return nodes


def two_passes() -> Nodes:
    """The second pass, larger, over what the first made; the seed comes from a node that only holds it."""
    nodes = from_words()
    nodes["20"] = node(
        "LatentUpscale", samples=["3", 0], width=1152, height=768, upscale_method="nearest-exact"
    )
    nodes["21"] = node(
        "KSampler", seed=["22", 0], steps=14, cfg=7.5, sampler_name="uni_pc", scheduler="simple", denoise=0.5,
        model=["14", 0], positive=["6", 0], negative=["7", 0], latent_image=["20", 0],
    )  # fmt: skip
    nodes["22"] = node("PrimitiveInt", value=77)
    nodes["8"]["inputs"]["samples"] = ["21", 0]
    return nodes


def flux() -> Nodes:
    """ComfyUI's own example of Flux: sampler, guider, schedule and noise are nodes of their own."""
    return {
        "5": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
        "6": node("CLIPTextEncode", text=["31", 0], clip=["11", 0]),
        "8": node("VAEDecode", samples=["13", 0], vae=["10", 0]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
        "10": node("VAELoader", vae_name="ae.safetensors"),
        "12": node("UNETLoader", unet_name="flux1-schnell.safetensors", weight_dtype="default"),
        "13": node(
            "SamplerCustomAdvanced", noise=["25", 0], guider=["22", 0], sampler=["16", 0], sigmas=["17", 0],
            latent_image=["5", 0],
        ),
        "16": node("KSamplerSelect", sampler_name="euler"),
        "17": node("BasicScheduler", scheduler="simple", steps=4, denoise=1, model=["12", 0]),
        "22": node("BasicGuider", model=["12", 0], conditioning=["26", 0]),
        "25": node("RandomNoise", noise_seed=219670278),
        "26": node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
        "31": node("String", value="a bottle of beach"),
    }  # fmt: skip


def controlled() -> Nodes:
    """A control net between words and sampler, which has two outputs; no words unwanted; steps are cut off in front."""
    nodes = painted_over()
    nodes["30"] = node("ConditioningZeroOut", conditioning=["6", 0])
    nodes["31"] = node(
        "ControlNetApplyAdvanced",
        positive=["6", 0],
        negative=["30", 0],
        control_net=["32", 0],
        image=["10", 0],
        strength=1.0,
    )
    nodes["32"] = node("ControlNetLoader", control_net_name="canny.safetensors")
    nodes["3"] = node(
        "KSamplerAdvanced", add_noise="enable", noise_seed=5, steps=20, cfg=8.0, sampler_name="lms", scheduler="karras",
        start_at_step=5, end_at_step=10000, model=["14", 0], positive=["31", 0], negative=["31", 1],
        latent_image=["12", 0],
    )  # fmt: skip
    return nodes


WORDS = {"prompt": "victorian woman, seated", "negative_prompt": "watermark, text"}


@pytest.mark.parametrize(
    ("graph", "settings"),
    [
        (painted_over, {**WORDS, "steps": 20, "guidance": 8.0, "strength": 0.87, "scheduler": "DPM++ 2M"}),
        (
            from_words,
            {**WORDS, "steps": 20, "guidance": 8.0, "scheduler": "Euler a", "width": 768, "height": 512},
        ),
        (
            two_passes,
            {**WORDS, "steps": 14, "guidance": 7.5, "strength": 0.5, "seed": 77, "scheduler": "UniPC"},
        ),
        (
            flux,
            {
                "prompt": "a bottle of beach",
                "steps": 4,
                "seed": 219670278,
                "scheduler": "Euler",
                "width": 1024,
                "height": 1024,
            },
        ),
        (
            controlled,
            {
                "prompt": WORDS["prompt"],
                "steps": 20,
                "guidance": 8.0,
                "strength": 0.75,
                "seed": 5,
                "scheduler": "LMS",
            },
        ),
    ],
)
def test_a_graph_of_comfyui_gives_what_its_sampler_was_given(
    tmp_path: Path, graph: Callable[[], Nodes], settings: Mapping[str, Any]
) -> None:
    """A seed above 32 bits means nothing here and is left out."""
    found = read(tmp_path, prompt=json.dumps(graph()), workflow=json.dumps({"nodes": [], "version": 0.4}))
    model = "ae.safetensors" if graph is flux else "v1-5-pruned-emaonly.safetensors"
    assert found == Restored(dict(settings), "ComfyUI", model)


def ring() -> Nodes:
    """Each node is linked to the next, and the last to the first."""
    nodes = {
        str(n): node("CLIPTextEncode", conditioning=[str((n + 1) % 900), 0], positive=[str(n), 0])
        for n in range(900)
    }
    return nodes | {"x": node("KSampler", steps=5, positive=["0", 0], latent_image=["1", 0])}


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("a lake", None),
        ("[]", None),
        ("{}", None),
        ('{"3": 1}', None),
        ('{"3": {"class_type": "KSampler", "inputs": []}}', None),
        ('{"3": {"class_type": 7, "inputs": {"latent_image": [["3"], 0]}}}', None),
        ('{"3": {"class_type": "K", "inputs": {"latent_image": ["3", 0], "positive": ["3", 0], "steps": true}}}', None),
        ('{"3": {"class_type": "KSampler", "inputs": {"latent_image": 1, "seed": ["9", 0], "steps": 1e999}}}', {}),
        ("[" * 100_000, None),
        (json.dumps(painted_over()) + " " * comfyui.MAX_TEXT, None),
        (json.dumps(ring()), {"steps": 5}),
    ],
    ids=range(11),
)  # fmt: skip
def test_a_graph_that_makes_no_sense_gives_what_it_can(
    tmp_path: Path, text: str, settings: dict[str, Any] | None
) -> None:
    found = read(tmp_path, prompt=text)
    assert (found and {k: v for k, v in found.settings.items() if k != "scheduler"}) == settings


# -- InvokeAI ------------------------------------------------------------------------------------------------------

INVOKEAI = {
    "app_version": "5.6.0",
    "generation_mode": "img2img",
    "positive_prompt": "a lighthouse in a storm",
    "negative_prompt": "people",
    "width": 640,
    "height": 448,
    "seed": 1234567,
    "rand_device": "cpu",
    "cfg_scale": 7.5,
    "cfg_rescale_multiplier": 0,
    "steps": 30,
    "scheduler": "dpmpp_2m_k",
    "strength": 0.65,
    "model": {"key": "a1", "hash": "blake3:0", "name": "Dreamshaper 8", "base": "sd-1", "type": "main"},
    "loras": [],
}
INVOKEAI_SETTINGS = {
    "prompt": "a lighthouse in a storm",
    "negative_prompt": "people",
    "width": 640,
    "height": 448,
    "seed": 1234567,
    "guidance": 7.5,
    "steps": 30,
    "scheduler": "DPM++ 2M",
    "strength": 0.65,
}


def test_a_picture_of_invokeai_gives_its_settings(tmp_path: Path) -> None:
    found = read(tmp_path, invokeai_metadata=json.dumps(INVOKEAI), invokeai_graph="{}")
    assert found == Restored(INVOKEAI_SETTINGS, "InvokeAI", "Dreamshaper 8")
    earlier = INVOKEAI | {"model": {"model_name": "stable-diffusion-v1-5", "base_model": "sd-1"}}
    assert parse_invokeai(json.dumps(earlier)).model == "stable-diffusion-v1-5"  # type: ignore[union-attr]


def test_a_picture_of_invokeai_2_has_unwanted_words_in_brackets(tmp_path: Path) -> None:
    data = {
        "model": "stable diffusion",
        "model_weights": "stable-diffusion-1.5",
        "app_id": "invoke-ai/InvokeAI",
        "app_version": "v2.2.4",
        "image": {
            "prompt": [{"prompt": "a castle, at night [blurry, text]", "weight": 1.0}],
            "steps": 50,
            "cfg_scale": 7.5,
            "threshold": 0,
            "seed": 42,
            "width": 512,
            "height": 512,
            "type": "img2img",
            "strength": 0.5,
            "sampler": "k_euler_a",
        },
    }
    found = read(tmp_path, **{"sd-metadata": json.dumps(data)})
    assert found == Restored(
        {
            "prompt": "a castle, at night",
            "negative_prompt": "blurry, text",
            "steps": 50,
            "guidance": 7.5,
            "seed": 42,
            "width": 512,
            "height": 512,
            "strength": 0.5,
            "scheduler": "Euler a",
        },
        "InvokeAI",
        "stable-diffusion-1.5",
    )


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "7", "[" * 60_000, '{"image": 3}', '{"image": {"prompt": [3, {"prompt": 4}]}}']
)
def test_what_is_not_invokeais_gives_nothing(tmp_path: Path, text: str) -> None:
    found = read(tmp_path, invokeai_metadata="[]", **{"sd-metadata": text})
    assert found is None or not found.settings.get("prompt")


# -- whatever is in them -------------------------------------------------------------------------------------------

READ = """
import sys
from pathlib import Path
from backend.models import MODELS
from ui.recipe import settings_in
for path in sorted(Path(sys.argv[1]).iterdir()):
    settings_in(path, MODELS)
    print(path.name)
"""
PARTS = (" ", '"', "\\", ",", ":", "a:", "a: ", 'a:"', '\\"', " -", "a,", "\t", '", ', "[", "]", "[]")


def test_no_text_costs_more_than_its_length(tmp_path: Path) -> None:
    """In a process of its own, because a regular expression that runs away cannot be stopped from outside."""
    for index, part in enumerate(PARTS):
        long = part * (20_000 // len(part))
        image = json.dumps({"image": {"prompt": long}})
        for name, text in (("parameters", f"a{long}!Steps: 1"), ("prompt", long), ("sd-metadata", image)):
            info = PngInfo()
            info.add_text(name, text, zip=True)
            Image.new("RGB", (8, 8)).save(tmp_path / f"{index}-{name}.png", pnginfo=info)
    info = PngInfo()
    info.add_text("prompt", json.dumps(ring()), zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "ring.png", pnginfo=info)
    command = [sys.executable, "-c", READ, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0 and len(run.stdout.split()) == 3 * len(PARTS) + 1, run.stderr
