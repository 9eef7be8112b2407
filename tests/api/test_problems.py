import inspect

import pytest

from app import errors
from app.api.problems import PROBLEMS, UNFORESEEN, problem_of, problem_response


def raised_while_serving() -> list[type[errors.ArmoserveError]]:
    """Every error that a request may end in: the concrete classes outside the branches for the start and the client."""
    abstract = {errors.ArmoserveError, errors.RequestError, errors.Unavailable}
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.ArmoserveError)
        and not issubclass(kind, errors.StartError | errors.ClientError)
        and kind not in abstract
    ]


def test_the_table_is_complete_and_holds_nothing_else() -> None:
    assert set(PROBLEMS) == set(raised_while_serving())


def test_statuses_and_types_are_those_of_the_contract() -> None:
    rows = {(problem.status, problem.type) for problem in PROBLEMS.values()}
    assert rows == {
        (400, "invalid-conversation"),
        (400, "unknown-name"),
        (400, "preference-required"),
        (400, "conflicting-options"),
        (401, "unauthorized"),
        (408, "stream-stalled"),
        (413, "too-many-tokens"),
        (413, "body-too-large"),
        (422, "malformed-body"),
        (429, "overloaded"),
        (500, "inference-failed"),
        (501, "not-in-these-weights"),
        (503, "not-ready"),
        (503, "overloaded"),
        (503, "draining"),
        (504, "deadline-exceeded"),
    }


def test_what_nobody_foresaw_is_answered_without_its_words() -> None:
    response = problem_response(RuntimeError("the prompt was xyzzy"), "an-id")
    assert response.status_code == 500
    assert b"xyzzy" not in bytes(response.body)
    assert b"an-id" in bytes(response.body)
    assert problem_of(errors.InvalidWeights("x")) is UNFORESEEN


@pytest.mark.parametrize("seconds", [0.2, 1.0, 30.0])
def test_retry_after_is_spread_and_never_early(seconds: float) -> None:
    answers = [problem_response(errors.Overloaded("full", seconds), "id") for _ in range(200)]
    waits = {int(answer.headers["retry-after"]) for answer in answers}
    assert min(waits) >= max(1, seconds)
    assert max(waits) <= 1.5 * seconds + 1
    if seconds > 10:
        assert len(waits) > 5
