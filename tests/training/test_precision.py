"""The number format is chosen by its speed."""

import pytest
import torch

from training import precision


@pytest.mark.parametrize(("bfloat16", "chosen"), [(8.0, torch.float32), (0.5, torch.bfloat16)])
def test_the_faster_format_is_taken(monkeypatch, bfloat16, chosen):
    times = {torch.float32: 1.0, torch.bfloat16: bfloat16}
    monkeypatch.setattr(precision, "seconds", lambda _, dtype: times[dtype])
    precision.fastest.cache_clear()
    assert precision.fastest("cpu") == chosen
    with precision.autocast("cpu"):
        assert torch.is_autocast_enabled("cpu") == (chosen == torch.bfloat16)
    precision.fastest.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_formats_are_timed(dtype):
    assert precision.seconds("cpu", dtype, repeats=1) > 0


def test_they_are_timed_where_nothing_is_learned():
    with torch.inference_mode():
        assert precision.seconds("cpu", torch.float32, repeats=0) > 0
