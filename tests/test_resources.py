"""Old files go, a full disk is told in a sentence, and the picture is shown all the same."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backend.errors import BadImageError, BusyError, DiskFullError
from backend.latents import save_latents
from backend.models import BUILTIN
from tests.fakes import FakeStudio
from tests.following import follow_page
from ui import history
from ui.cleaning import GRACE_SECONDS, Retention, clean
from ui.encode import encode_picture
from ui.form import Values
from ui.pictures import save_drawing
from ui.runs import Run, Runs, disk_may_be_full
from ui.theme import ASSETS

EXAMPLE = str(ASSETS / "mountains.png")
DAY = 86400.0
full_disks = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")


# -- cleaning --------------------------------------------------------------------------------------------------


def lay(path: Path, days_ago: float, megabytes: float = 0.001) -> Path:
    """A file of that size, last written so long ago, as is its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(int(megabytes * 1e6)))
    moment = time.time() - days_ago * DAY
    os.utime(path, (moment, moment))
    os.utime(path.parent, (moment, moment))
    return path


def run_of(folder: Path, letter: str, days_ago: float, megabytes: float = 0.001) -> Path:
    return lay(folder / (letter * 20) / "latent-relay-1.png", days_ago, megabytes).parent


def test_what_is_old_goes_whatever_kind_it_is(tmp_path: Path) -> None:
    old_run, run = run_of(tmp_path, "a", 15), run_of(tmp_path, "b", 13)
    old_upload, upload = lay(tmp_path / "temp/1/x.png", 15), lay(tmp_path / "temp/2/x.png", 1)
    old_drawing = lay(tmp_path / "drawings/1.png", 15)
    drawing = lay(tmp_path / "drawings/2.png", 2)
    stranger = lay(tmp_path / "notes/keep.txt", 99)
    assert clean(tmp_path, Retention(days=14), temp=tmp_path / "temp") > 0
    assert not any(path.exists() for path in (old_run, old_upload, old_drawing))
    assert all(path.exists() for path in (run, upload, drawing, stranger))


def test_too_much_goes_oldest_first(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, letter, days, 1.0) for letter, days in (("a", 3), ("b", 2), ("c", 1))]
    upload = lay(tmp_path / "temp/1/x.png", 2.5, 1.0)
    clean(tmp_path, Retention(gb=0.0025), temp=tmp_path / "temp")
    assert [path.exists() for path in (*runs, upload.parent)] == [False, True, True, False]


def test_neither_a_running_job_nor_what_has_just_come_is_deleted(tmp_path: Path) -> None:
    running, fresh = run_of(tmp_path, "a", 99, 1.0), run_of(tmp_path, "b", 0, 1.0)
    clean(tmp_path, Retention(gb=1e-9), busy={running.name})
    assert running.exists() and fresh.exists()
    clean(tmp_path, Retention(gb=1e-9), now=time.time() + GRACE_SECONDS + 1)
    assert not running.exists() and not fresh.exists()


def test_uploads_are_bounded_however_young_they_are(tmp_path: Path) -> None:
    temp = tmp_path / "temp"
    uploads = [lay(temp / f"{number}" / "x.png", 0.0001 * (9 - number), 1.0) for number in range(6)]
    fresh = run_of(tmp_path, "a", 0.01, 1.0)
    clean(tmp_path, Retention(gb=0.0025), temp=temp)
    assert [path.exists() for path in uploads] == [False] * 4 + [True] * 2, "the oldest go first"
    assert fresh.exists()


def test_a_flood_of_uploads_is_cleaned_away_while_it_comes(tmp_path: Path) -> None:
    temp = tmp_path / "temp"
    runs = Runs(tmp_path, Retention(gb=0.04), temp)
    runs.clean_up()  # so that the next of these is a minute away
    for number in range(20):
        lay(temp / f"{number}" / "x.png", 0, 10.0)
        runs.uploaded(10_000_000)
    deadline = time.monotonic() + 20
    while sum(path.stat().st_size for path in temp.rglob("*.png")) > 60e6:
        assert time.monotonic() < deadline, "they stayed"
        runs.uploaded(1)  # as the next part of any upload
        time.sleep(0.02)


def test_a_link_leads_the_cleaner_nowhere(tmp_path: Path) -> None:
    outside = run_of(tmp_path / "outside", "a", 99)
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / ("b" * 20)).symlink_to(outside)
    clean(folder, Retention(days=1), temp=folder)
    assert outside.exists() and list(outside.iterdir())


def test_starting_a_run_cleans_and_the_history_forgets_what_is_gone(tmp_path: Path) -> None:
    old = run_of(tmp_path, "a", 20)
    lay(old / history.THUMBNAIL, 20)
    runs = Runs(tmp_path, Retention(days=14))
    assert history.known(runs, [old.name]) == [old.name]
    run = runs.start()
    assert run.folder.exists() and not old.exists()
    assert history.known(runs, [old.name]) == []


# -- a full disk -----------------------------------------------------------------------------------------------


class FullDisk(Runs):
    """Runs whose files of these names lie on a disk that takes nothing."""

    def __init__(self, folder: Path, *names: str) -> None:
        super().__init__(folder)
        self.names = names

    def start(self) -> Run:
        run = super().start()
        for name in self.names:
            (run.folder / name).symlink_to("/dev/full")
        return run


def last_of(seen: Any) -> dict[Any, Any]:
    state: dict[Any, Any] = {}
    for changes in seen:
        state |= changes
    return state


@full_disks
def test_the_picture_is_shown_although_nothing_can_be_kept(tmp_path: Path) -> None:
    names = ("before.png", "recipe.json", "encode.safetensors", "denoise.safetensors", "latent-relay-5.png")
    runs = FullDisk(tmp_path, *names)
    seen, view = follow_page(FakeStudio(), runs, Values(EXAMPLE, "x", seed=5))
    state = last_of(seen)
    shown = state[view.viewer]
    assert shown["before"].startswith("data:image/jpeg") and shown["after"].startswith("data:image/jpeg")
    assert "The disk here is full, so this run could not be kept:" in state[view.panel]
    assert state[view.picture]["interactive"] is False and state[view.latents]["interactive"] is False
    assert state[view.start]["interactive"] is True and view.ids not in state


@full_disks
def test_only_the_latents_do_not_fit(tmp_path: Path) -> None:
    runs = FullDisk(tmp_path, "encode.safetensors", "denoise.safetensors")
    seen, view = follow_page(FakeStudio(), runs, Values(EXAMPLE, "x", seed=5))
    state = last_of(seen)
    assert state[view.viewer]["after"].startswith("runs/") and len(state[view.ids]) == 1
    assert state[view.picture]["interactive"] is True and state[view.latents]["interactive"] is False
    assert "The disk here is full" in state[view.panel]


def test_not_even_a_folder_fits(tmp_path: Path) -> None:
    class NoFolder(Runs):
        def start(self) -> Run:
            run = super().start()
            run.folder.rmdir()
            run.folder.write_bytes(b"")  # where a file is no folder can be
            return run

    run = NoFolder(tmp_path).start()
    with pytest.raises(OSError, match="exists"):
        run.write("x", lambda path: path.write_text("x"))  # another fault than a full disk is not hidden


@full_disks
def test_a_run_of_the_encode_tab_says_it_in_a_sentence(tmp_path: Path) -> None:
    from backend.job import VaeOptions

    with pytest.raises(DiskFullError, match="is full"):
        run = FullDisk(tmp_path, "latents.safetensors").start()
        encode_picture(FakeStudio(), run, EXAMPLE, "builtin", VaeOptions(), "en")


@full_disks
def test_latents_and_drawings_tell_a_full_disk_from_other_faults(tmp_path: Path) -> None:
    import torch

    (tmp_path / "x.safetensors").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        save_latents(tmp_path / "x.safetensors", torch.zeros(1, 4, 8, 8), BUILTIN)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(BadImageError):
        save_drawing("data:image/png;base64,nonsense", tmp_path)
    with pytest.raises(PermissionError), disk_may_be_full():
        raise PermissionError(errno.EACCES, "not yours")


@full_disks
def test_a_series_ends_with_free_buttons(tmp_path: Path) -> None:
    from ui.run_view import RunContext
    from ui.running import follow_series

    seen, view = follow_page(FakeStudio(), Runs(tmp_path), Values(EXAMPLE, "x"))
    seen.close()  # type: ignore[attr-defined]
    runs = FullDisk(tmp_path, "latent-relay-5.png")
    series = [Values(EXAMPLE, "x", seed=5), Values(EXAMPLE, "x", seed=6)]
    state = last_of(follow_series(RunContext(FakeStudio(), runs, view, "en"), series, lambda _: "x"))
    assert state[view.start]["interactive"] is True and state[view.stop]["interactive"] is False


# -- a full line -----------------------------------------------------------------------------------------------


def test_past_the_bound_a_job_is_told_that_it_is_busy(studio: Any, picture: Image.Image) -> None:
    from backend.job import Job
    from backend.settings import Settings
    from backend.studio import Studio

    small = Studio(Settings(device="cpu", model="builtin", queue=1))
    with small.job_queue.enter(), pytest.raises(BusyError, match="It is busy") as caught:
        list(small.img2img(Job(picture, "x")))
    assert "try again" in caught.value.hint and small.job_queue.waiting == 0
