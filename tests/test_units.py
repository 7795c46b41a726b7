from __future__ import annotations

import pytest

from backend.units import card_size, digits, percent, seconds, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0504, "0.05"),
        (0.23, "0.23"),
        (4.0, "4"),
        (47.8, "48"),
        (99.7, "100"),
        (412, "410"),
        (1e6, "1000000"),
        (-1.25, "-1.2"),
    ],
)
def test_two_significant_digits(value: float, text: str) -> None:
    assert digits(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.0123, "12 ms"),
        (0.0996, "0.1 s"),
        (0.4, "0.4 s"),
        (9.96, "10 s"),
        (75, "75 s"),
        (99.4, "99 s"),
        (99.6, "1 min 40 s"),
        (119.7, "2 min"),
        (125, "2 min"),
        (128, "2 min 10 s"),
        (594, "9 min 50 s"),
        (596, "10 min"),
        (3540, "59 min"),
        (3590, "1 h"),
        (4800, "1 h 20 min"),
        (36_000, "10 h"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (12, "12 B"),
        (996, "1 kB"),
        (8_320, "8.3 kB"),
        (999_600, "1 MB"),
        (47_800_000, "48 MB"),
        (412_000_000, "410 MB"),
        (23_630_000_000, "24 GB"),
    ],
)
def test_size(value: int | None, text: str) -> None:
    assert size(value) == text


def test_a_cards_memory_is_in_the_units_that_it_is_sold_by() -> None:
    assert card_size(24 * 2**30) == "24 GB"


def test_percent() -> None:
    assert (percent(None), percent(5.15), percent(0.0123), percent(97.66)) == (
        "–",
        "5.2 %",
        "0.012 %",
        "98 %",
    )
