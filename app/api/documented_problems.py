"""Which errors each route may end in, for the OpenAPI document: by status, from the one table in `problems.py`."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from app import errors
from app.api.problems import MEDIA_TYPE, PROBLEMS, UNFORESEEN, Problem

Kind = type[errors.ArmoserveError]

OPEN_ROUTES: Final = frozenset({"/livez", "/readyz"})
UNSCORED_ROUTES: Final = frozenset({"/tokenize"})
ANY_WEIGHTS_ROUTES: Final = frozenset({"/score", "/score/stream", "/objectives"})
"""What they ask of the weights, all weights have."""
READING: Final[tuple[Kind, ...]] = (errors.MalformedBody, errors.BodyTooLarge, errors.NotReady)
"""A body, for the weights that are served."""
FITTING: Final[tuple[Kind, ...]] = (
    errors.InvalidConversation,
    errors.UnknownName,
    errors.TooManyTokens,
)
SCORING: Final[tuple[Kind, ...]] = (
    errors.PreferenceRequired,
    errors.InferenceFailed,
    errors.Draining,
    errors.DeadlineExceeded,
)
STALLED: Final = Problem(HTTPStatus.REQUEST_TIMEOUT, "about:blank", "The body stopped coming")


def problem_answers(path: str, *, has_body: bool, is_trainers: bool) -> dict[str, Any]:
    """Return the answers of a route that are errors, by status; each names its types."""
    by_status: dict[int, list[str]] = {}
    for problem in _problems(path, has_body=has_body, is_trainers=is_trainers):
        types = by_status.setdefault(problem.status, [])
        if problem.type not in types:
            types.append(problem.type)
    return {str(status): _answer(types) for status, types in sorted(by_status.items())}


def _problems(path: str, *, has_body: bool, is_trainers: bool) -> Iterable[Problem]:
    yield UNFORESEEN
    if path not in OPEN_ROUTES:
        yield PROBLEMS[errors.Unauthorized]
    yield from (PROBLEMS[kind] for kind in _kinds(path, has_body=has_body, is_trainers=is_trainers))
    if has_body:
        yield STALLED


def _kinds(path: str, *, has_body: bool, is_trainers: bool) -> tuple[Kind, ...]:
    if not has_body:
        without_body: dict[str, tuple[Kind, ...]] = {"/metrics": (), "/readyz": (errors.NotReady, errors.Draining)}
        return without_body.get(path, (errors.NotReady,))
    kinds = (*READING, *FITTING) if path in ANY_WEIGHTS_ROUTES else (*READING, *FITTING, errors.NotInTheseWeights)
    if path in UNSCORED_ROUTES:
        return kinds
    full = (errors.TrainerOverloaded, errors.ConflictingOptions) if is_trainers else (errors.Overloaded,)
    return (*kinds, *SCORING, *full)


def _answer(types: list[str]) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}}
    return {"description": f"A problem: {' or '.join(f'`{one}`' for one in types)}", "content": content}
