"""The doctor: what it finds on a healthy machine, that it finds what is broken, and that it keeps secrets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import app
from backend.doctor import machine, places
from backend.doctor.examine import (
    all_well,
    as_json,
    as_line,
    conclusion,
    examine,
    print_findings,
    without_home,
)
from backend.doctor.finding import Finding, run_check
from backend.doctor.places import endpoints
from backend.doctor.selftest import (
    auto_takes_the_faster,
    download_stops,
    job_runs,
    modes_agree,
    offloading_agrees,
    streamed_is_exact,
)
from backend.errors import BadSettingError, Cancelled
from backend.message import Message
from backend.models import BUILTIN
from backend.placement.choose import Candidate
from backend.placement.learned import ExpectedCost
from backend.settings import LOW_MEMORY, EndpointPair, Settings
from backend.studio import Studio
from backend.vae.modes import LOCAL_MODES
from backend.vae.whole import Whole
from tests.card_figures import CardFigures, CardLoader
from tests.hubbing import Hub, builtin_as, hub_here
from tests.serving import scripted
from ui.doctor import export, listed
from ui.page import build_page
from ui.runs import Runs

_SIDE = 128
_SECRET = "hf_a_secret_token"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A healthy machine's can be written; that of whoever runs the tests perhaps not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture(scope="module")
def findings(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """With a serve token, which the self-test's own endpoint must be sent."""
    settings = Settings(device="cpu", cache_folder=cache, serve_token=_SECRET)
    return list(examine(settings, tmp_path_factory.mktemp("pictures"), side=_SIDE))


def test_a_healthy_machine_is_well(findings: list[Finding]) -> None:
    assert [finding for finding in findings if finding.status == "problem"] == []
    assert all_well(findings)
    assert str(conclusion(findings)) == "All is well."


def test_everything_that_a_bug_report_needs_is_there(findings: list[Finding]) -> None:
    checks = {finding.check for finding in findings}
    assert checks >= {
        "libraries",
        "processor",
        "memory",
        "disk: pictures",
        "disk: models",
        "card",
        "hub",
        "default model",
        "model: builtin",
        "model: sd-v1",
        "endpoints",
        "builtin: whole",
        "builtin: streamed",
        "builtin: tiled",
        "builtin: auto, encode",
        "builtin: auto, decode",
        "builtin: exact",
        "builtin: job",
        "builtin: remote",
    }
    of = {finding.check: finding.figures for finding in findings}
    assert of["libraries"]["torch"] == torch.__version__
    assert of["processor"]["seconds_as_multiple_of_float32"]["float32"] == 1
    assert of["builtin: streamed"]["forecast_bytes"] > 0
    assert of["builtin: job"]["steps"] == of["builtin: job"]["announced_steps"] > 0
    assert of["builtin: remote"]["bytes_sent"] > 0


def test_the_json_holds_the_same_and_can_be_read(findings: list[Finding]) -> None:
    data = json.loads(as_json(findings))
    assert data["ok"] is True
    assert [entry["check"] for entry in data["findings"]] == [finding.check for finding in findings]


def test_nothing_learned_is_written(findings: list[Finding], cache: Path) -> None:
    assert list(cache.iterdir()) == []


def test_an_endpoint_that_is_broken_is_a_problem_and_secrets_stay_here(
    monkeypatch: pytest.MonkeyPatch, findings: list[Finding]
) -> None:
    monkeypatch.setenv("HF_TOKEN", _SECRET)
    with scripted((500, {}, b"out of order")) as (_, url):
        settings = Settings(
            device="cpu",
            endpoints={
                "builtin": EndpointPair(None, f"http://me:{_SECRET}@{url.removeprefix('http://')}/decode")
            },
            tokens={"builtin": _SECRET},
        )
        found = list(run_check("endpoints", partial(endpoints, Studio(settings))))
    assert [(finding.check, finding.status) for finding in found] == [
        ("endpoint: builtin, decode", "problem")
    ]
    printed = as_json([*findings, *found, *machine.hub()]) + "".join(map(as_line, found))
    assert _SECRET not in printed


def test_what_is_printed_and_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = [Finding("card", "problem", Message("No kernel runs on this card."))]
    monkeypatch.setattr("backend.doctor.examine.examine", lambda *_, **__: iter(made))
    assert print_findings(Settings(), tmp_path) == 1
    assert capsys.readouterr().out == (
        "PROBLEM No kernel runs on this card.\n\n1 thing does not work; it is marked above.\n"
    )
    assert print_findings(Settings(), tmp_path, as_data=True) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_the_home_folder_is_not_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "somebody"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    found = list(machine.disk(Settings(cache_folder=home / ".cache"), home / "runs"))
    text = "\n".join(map(as_line, found)) + as_json(found)
    assert "somebody" not in text
    assert "~/.cache" in text
    monkeypatch.setenv("HOME", "/")  # a container's: nothing to hide, and every slash would be hit
    assert without_home("/data/runs") == "/data/runs"


class _Wrong(Whole):
    """A streamed mode that gives another picture."""

    mode = "streamed"

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(latents).flip(-1)


def test_a_mode_that_gives_another_picture_is_a_problem(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(module: Any, spec: Any, _: Any) -> Whole:
        return _Wrong(module, spec)

    monkeypatch.setitem(LOCAL_MODES, "streamed", wrong)
    found = {finding.check: finding.status for finding in modes_agree(studio, BUILTIN, _SIDE)}
    assert found["builtin: streamed"] == "problem"
    assert found["builtin: whole"] != "problem"


def test_a_streamed_mode_that_is_not_exact_is_a_problem(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.vae.streamed.Streamed", lambda module, spec, **_: _Wrong(module, spec))
    assert [finding.status for finding in streamed_is_exact(studio, BUILTIN, 64)] == ["problem"]


def test_a_job_that_ends_without_a_picture_is_a_problem(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio, "img2img", lambda *_: iter(()))
    assert [finding.status for finding in job_runs(studio, BUILTIN, 64)] == ["problem"]


def test_each_way_of_placing_the_denoiser_on_a_card_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    CardFigures().pretend(monkeypatch)
    settings = Settings()
    loader = CardLoader(settings)
    studio = Studio(settings, loader=loader)
    found = list(offloading_agrees(studio, BUILTIN, 64))
    assert [finding.check.rpartition(" ")[2] for finding in found] == list(LOW_MEMORY)
    assert {finding.status for finding in found} == {"ok"}
    assert [chosen.low_memory for chosen in loader.placed] == list(LOW_MEMORY)
    loader.denoiser(BUILTIN)
    assert loader.placed[-1].low_memory == "none", "as before"


def test_there_is_nothing_to_place_without_a_card(studio: Studio) -> None:
    assert list(offloading_agrees(studio, BUILTIN, 64)) == []


@pytest.mark.parametrize(
    ("whole", "streamed", "status"), [(1.0, 1.2, "ok"), (2.0, 1.0, "note"), (None, None, "ok")]
)
def test_auto_that_takes_the_slower_one_is_noted(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, whole: float, streamed: float, status: str
) -> None:
    measured = {
        "whole": ExpectedCost(None, whole, whole),
        "streamed": ExpectedCost(None, streamed, streamed),
    }
    monkeypatch.setattr(studio, "forecast", lambda *_: measured)
    monkeypatch.setattr(studio.planner, "candidates", lambda _: [Candidate("whole", Message("It fits."))])
    assert {finding.status for finding in auto_takes_the_faster(studio, BUILTIN, 64)} == {status}


def test_a_check_that_fails_is_a_problem_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> list[Finding]:
        raise BadSettingError("There is no such thing.", "Choose another.")

    def break_down() -> list[Finding]:
        raise ZeroDivisionError("division by zero")

    refused, broken = [*run_check("a", refuse), *run_check("b", break_down)]
    assert (refused.check, refused.status) == ("a", "problem")
    assert str(refused.message) == "There is no such thing. Choose another."
    assert "ZeroDivisionError: division by zero" in str(broken.message)
    assert "Traceback" in caplog.text  # what a developer needs is in the log
    assert not all_well([refused, broken])
    assert str(conclusion([refused, broken])) == "2 things do not work; they are marked above."
    assert str(conclusion([refused])) == "1 thing does not work; it is marked above."


def test_a_folder_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(str(tmp_path)))
    of = {finding.check: finding.status for finding in machine.disk(Settings(), tmp_path / "runs")}
    assert of["disk: pictures"] == "problem"


def test_a_nearly_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2e9})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    of = {finding.check: finding for finding in machine.disk(Settings(), tmp_path)}
    assert "only 2 GB" in str(of["disk: models"].message)


def test_the_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 550.54.14'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.card_figures()["driver"] == {"card": "NVIDIA GeForce RTX 4090", "version": "550.54.14"}


@pytest.mark.parametrize(
    ("speed", "status", "said"),
    [
        (300_000, "ok", "A download began, and stopping it took"),
        (0, "problem", "nothing of Big slow arrived"),
    ],
)
def test_a_download_is_begun_and_stopped(tmp_path: Path, speed: float, status: str, said: str) -> None:
    spec, files = builtin_as("slow")
    studio = Studio(Settings(device="cpu"))
    only = SimpleNamespace(models={"slow": spec}, loader=studio.loader)
    with hub_here(Hub({spec.repository: files}, speed=speed), tmp_path):
        (found,) = download_stops(only, patience=30 if speed else 3)  # type: ignore[arg-type]
    assert (found.status, said in str(found.message)) == (status, True), found
    took = found.figures["seconds_to_stop"]
    assert took < 2 if speed else took is None


def test_stop_ends_the_doctors_own_download(tmp_path: Path) -> None:
    spec, files = builtin_as("slow")
    only = SimpleNamespace(models={"slow": spec}, loader=Studio(Settings(device="cpu")).loader)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with (
        hub_here(Hub({spec.repository: files}, speed=0), tmp_path),
        pytest.raises(Cancelled),
    ):
        list(download_stops(only, stop, patience=60))  # type: ignore[arg-type]


def test_no_download_is_tried_without_a_hub(studio: Studio) -> None:
    assert list(download_stops(studio)) == []


def test_where_a_models_weights_would_lie(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    of = {finding.check: finding for finding in places.models(studio)}
    found = of["model: builtin"]
    assert found.figures["low_memory"] == "none" and found.figures["weight_bytes"]["unet"] > 1e6
    assert "Its weights take" in str(found.message)
    assert of["model: sd-v1"].figures["weight_bytes"] is None, "not here, and no hub to ask"
    refusal = (None, Message("Its weights take {total}.", total="34 GB"))
    monkeypatch.setattr(studio.loader, "plan_offload", lambda *_: refusal)
    of = {finding.check: finding for finding in places.models(studio)}
    assert of["model: builtin"].status == "note" and of["model: builtin"].figures["low_memory"] is None


def test_app_py_ends_with_the_doctors_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def printed(settings: Settings, pictures: Path, *, as_data: bool) -> int:
        asked.append((settings.folder, pictures, as_data))
        return 1

    monkeypatch.setattr("backend.doctor.examine.print_findings", printed)
    monkeypatch.setattr("sys.argv", ["app.py", "--doctor", "--json", "--folder", str(tmp_path)])
    assert app.main() == 1
    assert asked == [(tmp_path, tmp_path / "pictures", True)]


def test_a_finding_is_a_line_that_stands_out_where_something_is_wrong() -> None:
    finding = Finding("card", "problem", Message("No kernel runs on this card."))
    assert as_line(finding) == "PROBLEM No kernel runs on this card."
    assert as_line(replace(finding, status="ok")) == "ok      No kernel runs on this card."


def test_a_job_that_ends_does_not_stop_what_comes_after_it(studio: Studio) -> None:
    stop = threading.Event()
    assert [finding.status for finding in job_runs(studio, BUILTIN, 64, stop)] == ["ok"]
    assert not stop.is_set()


def test_it_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    checks = []
    with pytest.raises(Cancelled):
        for finding in examine(Settings(device="cpu"), tmp_path, side=64, stop=stop):
            checks.append(finding.check)
            if finding.check == "builtin: whole":
                stop.set()
    assert checks[-1] == "builtin: whole"


def test_the_page_lists_the_findings_in_the_visitors_language(tmp_path: Path) -> None:
    found = [
        Finding("card", "problem", Message("No graphics card was found; the processor computes.")),
        Finding("disk", "ok", Message("{model}, {host}: {answer}", model="<b>", host="h", answer="a")),
    ]
    shown = listed(found, "de")
    assert "Problem</b>" in shown and "Keine Grafikkarte gefunden" in shown and "&lt;b&gt;" in shown
    export(found, tmp_path / "doctor.txt")
    assert "PROBLEM No graphics card" in (tmp_path / "doctor.txt").read_text()


@pytest.mark.parametrize("share", [False, True])
def test_strangers_do_not_examine_the_machine(share: bool, tmp_path: Path) -> None:
    page = build_page(Studio(Settings(device="cpu", share=share)), Runs(tmp_path))
    assert any(block.elem_id == "lr-doctor-fold" for block in page.blocks.values()) is not share
