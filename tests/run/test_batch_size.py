"""The batch that is fastest is found, whichever it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backend.run.batch_size import BatchSize


def settle(seconds: Callable[[int], float], limit: int = 99) -> list[int]:
    """The sizes of sixty batches where one of n pictures takes `seconds(n)` a picture and no more than `limit` fit."""
    size, used = BatchSize(), []
    for _ in range(60):
        pictures = size.current
        if pictures > limit:
            size.too_large()
            continue
        used.append(pictures)
        cold = 5.0 if used.count(pictures) == 1 else 0.0  # libraries are loaded, kernels chosen
        size.took(pictures, 100 * pictures, pictures * seconds(pictures) + cold)
    return used


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda n: 1.0, 1),  # nothing gained
        (lambda n: 1.0 + n / 10, 1),  # caches are too small
        (lambda n: 1.0 + 4 / n, 16),  # launches are shared
        (lambda n: abs(n - 4) + 1.0, 4),
    ],
)
def test_the_fastest_is_found_within_a_few_batches(seconds: Callable[[int], float], best: int) -> None:
    used = settle(seconds)
    assert used[-1] == best and set(used[12:]) == {best}
    assert max(used) <= 2 * best


def test_what_does_not_fit_is_not_tried_again() -> None:
    used = settle(lambda n: 1.0 + 4 / n, limit=4)
    assert max(used) == used[-1] == 4
