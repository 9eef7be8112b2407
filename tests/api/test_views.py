import math

import numpy as np
import orjson
import pytest

from app.api.views import floats, results_of
from app.errors import NonFiniteReadout, TooManyTokens


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [1.0, math.nan], [[0.0], [math.inf]]])
def test_what_is_not_finite_never_leaves(value: object) -> None:
    with pytest.raises(NonFiniteReadout):
        floats(value)  # type: ignore[arg-type]


def test_float32_survives_the_way_out_and_back() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    back = np.array(orjson.loads(orjson.dumps(floats(values))), dtype=np.float32)
    assert (back == values).all()


def test_the_error_of_an_item_that_is_the_request_is_raised() -> None:
    with pytest.raises(TooManyTokens):
        results_of([TooManyTokens("long")], lambda outcome, index: outcome, is_single=True)


def test_an_error_of_a_view_is_its_items_own() -> None:
    def view(outcome: float, index: int) -> float:
        return float(floats(outcome))

    first, second = results_of([math.nan, 2.0], view, is_single=False)
    assert first == {"error": {"type": "inference-failed", "message": "a value of this answer is not a finite number"}}
    assert second == 2.0
