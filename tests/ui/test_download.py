"""The sentences of the offer and of the download, in each state and language."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from backend.events import Downloading
from backend.message import Message
from backend.models import SD_V1
from backend.run.model_downloads import ModelDownload
from ui.download import offer_text
from ui.languages import LANGUAGES
from ui.render import Progress
from ui.run_view import advance


def said(state: ModelDownload, me: str = "ann", locale: str = "en") -> str:
    """Without its markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", offer_text(SD_V1, state, me, locale))).strip()


OFFERED = ModelDownload("absent", total=2_301_000_000)
RUNNING = ModelDownload("running", 2_301_000_000, 575_000_000, 11_000_000.0, asked_by=frozenset({"ann"}))


def test_the_offer_says_what_it_is_and_how_much_and_nothing_that_is_not_known() -> None:
    assert said(OFFERED) == (
        "Stable Diffusion v1.5 would run well on this computer. The classic: any subject, 512 pixels, wants a "
        "graphics card with 4 GB or more. It has to be downloaded once: 2.3 GB."
    )
    assert "GB." not in said(replace(OFFERED, total=None)).removesuffix("more.")
    assert said(replace(OFFERED, speed=11_000_000.0)).endswith(
        "At the present speed that takes about 3 min 30 s."
    )
    assert "580 MB of 2.3 GB are here already." in said(replace(OFFERED, done=575_000_000))


def test_the_download_says_bytes_speed_and_time_left() -> None:
    assert said(RUNNING) == (
        "Downloading Stable Diffusion v1.5 · 580 MB of 2.3 GB · 11 MB a second · about 2 min 40 s left "
        "You can use the page meanwhile."
    )
    assert 'aria-valuenow="25"' in offer_text(SD_V1, RUNNING, "ann", "en")
    begun = ModelDownload("running", asked_by=frozenset({"ann"}))
    assert said(begun) == "Downloading Stable Diffusion v1.5 You can use the page meanwhile."
    assert "Somebody else" in said(RUNNING, me="bob") and "Somebody else" not in said(RUNNING)


def test_a_failure_is_said_with_its_reason_and_is_text() -> None:
    failed = replace(OFFERED, status="failed", failure=Message("{model} asks <b>.", model="It"))
    assert "The download did not work. It asks <b>." in re.sub("&lt;", "<", re.sub("&gt;", ">", said(failed)))
    assert "<b>" not in offer_text(SD_V1, failed, "ann", "en")


@pytest.mark.parametrize("locale", sorted(LANGUAGES))
def test_every_language_says_all_of_it(locale: str) -> None:
    for state in (OFFERED, RUNNING, replace(OFFERED, done=1, speed=1.0)):
        text = said(state, locale=locale)
        assert "{" not in text and "Stable Diffusion v1.5" in text
        assert locale == "en" or text != said(state)


def test_a_job_says_the_speed_of_the_download_it_waits_for() -> None:
    told = Downloading("It", 1_000_000, 2_000_000, 1.0, 1_000_000.0)
    message = advance(Progress(""), told, "en").message
    assert message == "Downloading It once: 1 MB of 2 MB · 1 MB a second · about 1 s left"
    stalled = advance(Progress(""), Downloading("It", 1_000_000, 2_000_000, None), "en").message
    assert stalled == "Downloading It once: 1 MB of 2 MB"
