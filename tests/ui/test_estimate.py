from __future__ import annotations

from backend.placement.estimate import Estimate
from ui.estimate import line, sentence


def test_known_figures_are_told_and_unknown_ones_left_out() -> None:
    known = Estimate(4.2, 2_100_000_000, 8_000_000_000, "whole", "streamed")
    assert (
        sentence(known, "en") == "About 4.2 s, 2.10 GB of 8.00 GB free memory, encode whole, decode streamed"
    )
    unknown = Estimate(None, None, 8_000_000_000, "remote", "whole")
    assert sentence(unknown, "en") == "encode remote, decode whole"


def test_what_does_not_fit_is_a_warning_with_a_way_out() -> None:
    html = line(Estimate(None, 12_900_000_000, 8_000_000_000, "whole", "whole"))
    assert "may run out of memory" in html and "Streamed" in html and 'data-state="bad"' in html


def test_the_line_keeps_its_place_while_empty() -> None:
    assert line() == '<p class="lr-estimate" data-state=""></p>'
