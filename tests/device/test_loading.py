from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

from backend.device import availability
from backend.device.availability import default_model, hub_answers, pick_device, wanted_model
from backend.device.loading import Loader
from backend.errors import BadSettingError, ModelUnavailableError
from backend.models import BUILTIN, SD_V1
from backend.settings import Settings

ON_CPU = Settings(device="cpu")


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    for name in ("toaster", "cuda:99"):
        with pytest.raises(BadSettingError, match=name):
            pick_device(name)


def test_without_a_card_the_built_in_model_is_the_default_and_the_sentence_is_friendly() -> None:
    spec, reason = default_model(ON_CPU, lambda _: True)
    assert spec is BUILTIN and "built-in" in str(reason) and str(reason).endswith(".")


def test_the_owner_s_choice_wins_once_it_is_here() -> None:
    chosen = Settings(model="sd-v1")
    assert wanted_model(chosen) is SD_V1 and default_model(chosen, lambda _: True)[0] is SD_V1
    spec, reason = default_model(chosen, lambda _: False)
    assert spec is BUILTIN and "v1.5 is not on this computer yet" in str(reason)


def test_a_card_wants_stable_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_model(ON_CPU) is None
    monkeypatch.setattr(availability, "_cuda_usable", lambda _: True)
    assert wanted_model(Settings()) is SD_V1


def test_the_hub_is_not_there_and_nothing_is_cached() -> None:
    loader = Loader(ON_CPU)
    assert (
        not hub_answers()
        and loader.missing(SD_V1, ["denoiser"])
        and not loader.missing(BUILTIN, ["denoiser"])
    )


def test_missing_weights_get_a_sentence_naming_the_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"Stable Diffusion v1\.5 .* hub cannot be reached"):
        Loader(ON_CPU).denoiser(SD_V1)
    broken = tmp_path / "broken"
    shutil.copytree(BUILTIN.repository, broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelUnavailableError, match="missing or damaged"):
        Loader(ON_CPU).denoiser(replace(BUILTIN, name="broken", repository=str(broken)))


def test_a_local_folder_of_the_same_shape_loads_by_the_same_path(tmp_path: Path) -> None:
    copy = tmp_path / "mine"
    shutil.copytree(BUILTIN.repository, copy)
    mine = replace(BUILTIN, name="mine", repository=str(copy))
    loader = Loader(ON_CPU)
    assert loader.vae(mine).config.scaling_factor == BUILTIN.latents.scaling_factor
    assert loader.dtype(mine) == torch.float32


def raised_from(cause: Exception) -> OSError:
    """As diffusers raises it: an OSError of its own, from the cause."""
    error = OSError("Can't load the model.")
    error.__cause__ = cause
    return error


def answer(status: int) -> HfHubHTTPError:
    request = httpx.Request("GET", "https://hub.example/model")
    return HfHubHTTPError("no", response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (raised_from(OSError(errno.ENOSPC, "No space left on device")), "disk is full"),
        (answer(401), "does not accept this token"),
        (raised_from(answer(401)), "does not accept this token"),
        (answer(429), "asked too often"),
        (answer(500), "hub cannot be reached"),
        (ConnectionError("no route"), "hub cannot be reached"),
    ],
)
def test_each_failure_of_the_hub_has_its_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Loader, "_load_vae", fail)
    with pytest.raises(ModelUnavailableError, match=sentence) as caught:
        Loader(ON_CPU).vae(SD_V1)
    assert caught.value.hint.endswith(".")
