"""What a run looks like in HTML: escaped, to scale, unknown as a dash."""

from __future__ import annotations

import re
from dataclasses import replace

from backend.events import Result, StageDone, StageStarted, Step, Waiting
from backend.message import Message, literal
from backend.models import MODELS
from backend.report import Cost
from tests.fakes import report
from ui.form_events import strength_words
from ui.render import Progress, bar, cost_table, memory, panel
from ui.run_view import advance

EVIL = '<script>alert("x")</script>'


def test_memory_says_its_kind_and_unknown_is_a_dash() -> None:
    assert memory(report("encode")) == "410 MB RAM (5.2 %)"
    assert memory(replace(report("encode"), cost=Cost(0.1, "VRAM"))) == "–"


def test_everything_is_escaped() -> None:
    evil = replace(report("encode"), where=literal(EVIL), reason=Message(EVIL))
    progress = Progress(EVIL, active="denoise", where=EVIL, running=True, reports=(evil,))
    for page in (panel(progress, "en"), cost_table([evil], "en"), bar([evil], "en")):
        assert "<script" not in page


def test_the_bar_is_to_scale() -> None:
    html = bar(
        [report("encode", seconds=1), report("denoise", "local", 2), report("decode", seconds=1)], "en"
    )
    assert re.findall(r"flex-grow:([\d.]+)", html) == ["0.2500", "0.5000", "0.2500"]


def test_the_table_has_traffic_only_for_what_travelled() -> None:
    html = cost_table([report("encode", "remote", requested="auto"), report("decode")], "en")
    assert "100 kB / 8.3 kB" in html
    assert "0.14 s / 60 ms" in html
    assert "asked for: automatic" in html


def test_a_run_that_never_loaded_the_vae_says_what_that_saved() -> None:
    ends = [report(stage, "remote", avoided_bytes=167_307_726) for stage in ("encode", "decode")]
    assert "170 MB of weights saved" in cost_table([ends[0], report("denoise", "local"), ends[1]], "en")
    for others in (
        ends[:1],
        [ends[0], report("decode")],
        [report("encode", "remote"), report("decode", "remote")],
    ):
        assert "saved" not in cost_table(others, "en")


def test_a_run_event_by_event() -> None:
    progress = Progress("", running=True)
    encoded = report("encode")
    progress = advance(progress, Waiting(Message("Waiting for 1 other to finish")), "en")
    assert progress.message == "Waiting for 1 other to finish"
    progress = advance(progress, StageStarted("encode", "whole", Message(""), Message("here")), "en")
    assert 'lr-encode" data-state="active"' in panel(progress, "en")
    progress = advance(progress, StageDone(encoded), "en")
    assert 'lr-encode" data-state="done"' in panel(progress, "en")
    progress = advance(progress, StageStarted("denoise", "local", Message(""), Message("here")), "en")
    progress = advance(progress, Step(3, 12, None, 9.0), "en")
    assert progress.message == "Painting, step 3 of 12 · about 9 s left"
    assert 0.08 < progress.fraction < 0.92
    progress = advance(progress, Result(None, None, (encoded,), {}), "en")  # type: ignore[arg-type]
    assert progress.fraction == 1 and not progress.running


def test_strength_has_words_and_the_true_step_count() -> None:
    spec = MODELS["builtin"]
    assert "0.6 × 20 = 12 steps" in strength_words(spec, spec.strength, spec.num_inference_steps, "en")
    assert "0.5 × 30 = 15 steps" in strength_words(spec, 0.5, 30, "en")
    assert len({strength_words(spec, s, 1, "en") for s in (0, 0.2, 0.5, 0.8, 1)}) == 5
