"""What the benchmark of quantised weights says of scores is what it says it is."""

import numpy as np
import pytest

from benchmarks.quantization import Agreement, Row, agreement, table

REFERENCE = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
PAIRS = np.array([[1, 0], [2, 3], [5, 4]])


def test_a_change_of_scale_keeps_order_and_preferences() -> None:
    found = agreement(3 * REFERENCE + 1, REFERENCE, PAIRS)
    assert (found.spearman, found.pearson, found.pair_agreement) == pytest.approx((1, 1, 1))
    assert found.accuracy == pytest.approx(2 / 3)
    assert (found.mean_absolute_difference, found.largest_difference) == pytest.approx((6, 11))


def test_a_pair_turned_round_is_counted_where_the_whole_order_hardly_moves() -> None:
    turned = REFERENCE.copy()
    turned[[4, 5]] = turned[[5, 4]]
    found = agreement(turned, REFERENCE, PAIRS)
    assert found.spearman == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert found.pair_agreement == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.spearman_of_differences == pytest.approx(0.5)


def test_the_table_has_a_line_per_way_to_hold_the_weights() -> None:
    found = Agreement(0.9912, 0.992, 0.993, 0.994, 0.6, 0.007, 0.02)
    text = table([Row("float32", "int8", 41_600_000, 1234.5, 0.97, 0.9, 1.1, found)])
    assert "| float32 | int8 | 41.6 MB | 1,234 | 0.97 (0.90 – 1.10) | 0.9912 |" in text
