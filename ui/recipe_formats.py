"""How other programs say in a picture how it was made: AUTOMATIC1111 (and whoever writes its text), ComfyUI, InvokeAI.

Each reader takes a text and gives values of the form. The text comes from anyone: it is read in one pass, up to a
limit, and what makes no sense is left out. Models are not ours, so none is chosen; their names are told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.comfyui import read_graph
from ui.form import clean

OURS = "Latent Relay"
_MAX_PAIRS = 4_096
"""Letters of the `key: value` line of a "parameters" text that are read."""
_MAX_NAME = 80
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_SAMPLERS: dict[str, str] = {
    # as AUTOMATIC1111 names them, and as we do
    "ddim": "DDIM",
    "dpm++ 2m": "DPM++ 2M",
    "euler": "Euler",
    "euler a": "Euler a",
    "lms": "LMS",
    "plms": "PNDM",
    "pndm": "PNDM",
    "unipc": "UniPC",
    # ComfyUI (comfy/samplers.py) and InvokeAI (its SCHEDULER_NAME_VALUES, and what version 2 had)
    "dpmpp_2m": "DPM++ 2M",
    "k_dpmpp_2": "DPM++ 2M",
    "euler_ancestral": "Euler a",
    "euler_a": "Euler a",
    "k_euler": "Euler",
    "k_euler_a": "Euler a",
    "k_lms": "LMS",
    "uni_pc": "UniPC",
    "uni_pc_bh2": "UniPC",
}
_SCHEDULES = (" automatic", " karras", " exponential", " uniform", "_k")
"""Ends of a sampler's name that say how its steps are spaced, which is not offered here."""


@dataclass(frozen=True)
class Restored:
    """What a picture says about how it was made."""

    settings: dict[str, Any]
    """Values of the form, by the names of `ui.form.Values`."""
    program: str = OURS
    model: str | None = None
    """Of another program: the name that it had there."""


def restored_from(chunks: Mapping[str, str]) -> Restored | None:
    """What another program wrote into a picture, whose text chunks these are; None if it is not known."""
    if "invokeai_metadata" in chunks or "sd-metadata" in chunks:
        found = parse_invokeai(chunks.get("invokeai_metadata", ""), chunks.get("sd-metadata", ""))
        if found is not None:
            return found
    if "Steps:" in (text := chunks.get("parameters", "")):
        return parse_parameters(text)
    return parse_comfyui(chunks.get("prompt", ""))


def parse_parameters(text: str) -> Restored:
    """AUTOMATIC1111's text: prompt, negative prompt, then a line of pairs (modules/infotext_utils.py)."""
    head, _, tail = text.strip().rpartition("\n")
    if "Steps:" not in tail:
        head, tail = text.strip(), ""
    prompt, _, negative = head.partition("Negative prompt:")
    pairs = _pairs(tail[:_MAX_PAIRS])
    width, _, height = pairs.get("Size", "").partition("x")
    settings = {
        "prompt": prompt.strip(),
        "negative_prompt": negative.strip(),
        "steps": pairs.get("Steps"),
        "guidance": pairs.get("CFG scale"),
        "seed": pairs.get("Seed"),
        "strength": pairs.get("Denoising strength"),
        "width": width,
        "height": height,
        "scheduler": _scheduler(pairs.get("Sampler", "")),
    }
    ours = pairs.get("Version") == OURS
    return _restored(settings, OURS if ours else "AUTOMATIC1111", None if ours else pairs.get("Model"))


def parse_comfyui(text: str) -> Restored | None:
    """The graph that ComfyUI's SaveImage writes as `prompt`; None if it is none, or paints nothing."""
    graph = read_graph(text)
    settings = graph.settings() if graph else {}
    if graph is None or not settings:
        return None
    settings["scheduler"] = _scheduler(settings.pop("sampler", ""))
    return _restored(settings, "ComfyUI", next(iter(graph.files()), None))


def parse_invokeai(text: str, earlier: str = "") -> Restored | None:
    """InvokeAI's `invokeai_metadata` (its CoreMetadataInvocation), or version 2's `sd-metadata`; None if neither."""
    data = _object(text)
    if data:
        model = data.get("model")
        named = model if isinstance(model, dict) else {}
        settings = {
            **{name: data.get(name) for name in ("negative_prompt", "steps", "seed", "width", "height")},
            "prompt": data.get("positive_prompt"),
            "guidance": data.get("cfg_scale"),
            "strength": data.get("strength"),
            "scheduler": _scheduler(data.get("scheduler")),
        }
        return _restored(settings, "InvokeAI", named.get("name") or named.get("model_name") or model)
    data = _object(earlier)
    image = data.get("image")
    if not isinstance(image, dict):
        return None
    prompt, negative = _split_brackets(_joined(image.get("prompt")))
    settings = {
        **{name: image.get(name) for name in ("steps", "seed", "width", "height", "strength")},
        "prompt": prompt,
        "negative_prompt": negative,
        "guidance": image.get("cfg_scale"),
        "scheduler": _scheduler(image.get("sampler")),
    }
    return _restored(settings, "InvokeAI", data.get("model_weights"))


def _restored(settings: Mapping[str, Any], program: str, model: Any) -> Restored:
    known = {name: value for name, value in settings.items() if value is not None}
    return Restored(
        clean(known, {}), program, model[:_MAX_NAME] if isinstance(model, str) and model else None
    )


def _object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _joined(prompt: Any) -> str:
    """Version 2 wrote a text, or a list of weighted texts."""
    parts = prompt if isinstance(prompt, list) else [{"prompt": prompt}]
    texts = (part.get("prompt") for part in parts if isinstance(part, dict))
    return ", ".join(text for text in texts if isinstance(text, str))


def _split_brackets(prompt: str) -> tuple[str, str]:
    """(prompt, negative prompt), which version 2 had in square brackets inside of it."""
    wanted, unwanted, depth = [], [], 0
    for letter in prompt:
        if letter == "[":
            depth += 1
        elif letter == "]" and depth:
            depth -= 1
            unwanted.append(" ")
        else:
            (unwanted if depth else wanted).append(letter)
    return "".join(wanted).strip(" ,"), "".join(unwanted).strip(" ,")


def _pairs(line: str) -> dict[str, str]:
    """`key: value, key: "a value, quoted"` as a dict, in one pass from left to right."""
    pairs: dict[str, str] = {}
    start = 0
    while start < len(line):
        colon, comma = line.find(":", start), line.find(",", start)
        if colon < 0:
            break
        if 0 <= comma < colon:  # no key here
            start = comma + 1
            continue
        begin = colon + 1
        while begin < len(line) and line[begin].isspace():
            begin += 1
        quoted = _QUOTED.match(line, begin)
        comma = line.find(",", quoted.end() if quoted else begin)
        end = comma if comma >= 0 else len(line)
        pairs[line[start:colon].strip()] = line[begin:end].strip().strip('"')
        start = end + 1
    return pairs


def _scheduler(name: Any) -> str:
    """What is called so here; "default" for one that is not offered."""
    if not isinstance(name, str):
        return "default"
    plain = name.lower().strip()
    for schedule in _SCHEDULES:
        plain = plain.removesuffix(schedule)
    return _SAMPLERS.get(plain, "default")
