"""Which preference direction a request means: its own, the server's default, or none where the weights gate."""

from collections.abc import Mapping, Sequence

from app.api.schemas import ScoreOptions
from app.api.state import ServedModel
from app.domain import ModelInfo
from app.errors import MalformedBody, PreferenceRequired
from app.preferences import PreferenceDirection, Weights, check_composites, preference_direction


def directions_of(options: ScoreOptions, info: ModelInfo) -> list[PreferenceDirection]:
    """Return the request's directions as unit vectors; its composites come beside the manifest's.

    Raises:
        UnknownName: a direction or composite uses a name that these weights do not have.
        MalformedBody: a direction is zero; names the field.
    """
    check_composites(options.composites, info.objective_names)
    composites = {**info.composites, **options.composites}
    return [
        _direction(f"preferences[{index}]", weights, info.objective_names, composites)
        for index, weights in enumerate(options.preferences or ())
    ]


def scalar_direction(
    directions: Sequence[PreferenceDirection],
    model: ServedModel,
    way: str = "give preferences, a list of {name: weight} over",
) -> PreferenceDirection | None:
    """Return the direction behind `scores`; None where the weights have a scalar of their own, or several were asked.

    `way` says in an error how to ask for one.

    Raises:
        PreferenceRequired: there is no way to a scalar at all.
    """
    if model.info.has_scalar:
        return None
    if model.default_direction is None and not directions:
        names = ", ".join([*model.info.objective_names, *model.info.composites])
        raise PreferenceRequired(f"these weights have several objectives and no gating: {way} {names}")
    return model.default_direction or (directions[0] if len(directions) == 1 else None)


def explained_direction(
    directions: Sequence[PreferenceDirection], model: ServedModel, *, ranked: bool
) -> PreferenceDirection | None:
    """Return the direction whose weights are the coefficients: the request's, which has at most one.

    Raises:
        PreferenceRequired: the contributions of several objectives are to be ranked and there are none.
    """
    direction = directions[0] if directions else None
    if direction is None and not model.info.has_scalar:
        direction = model.default_direction
    if ranked and direction is None and not model.info.has_scalar:
        raise PreferenceRequired("top_k ranks contributions, which these weights only have under one preference")
    return direction


def _direction(
    place: str, weights: Weights, objective_names: Sequence[str], composites: Mapping[str, Weights]
) -> PreferenceDirection:
    try:
        return preference_direction(weights, objective_names, composites)
    except MalformedBody as error:
        raise MalformedBody(f"{place}: {error}", ((place, str(error)),)) from None
