"""The native routes. Each parses, scores and views; whatever they share beyond that is in the files they call."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request, Response

from app.api.answers import (
    MoslimAnswer,
    ObjectivesAnswer,
    ScoreAnswer,
    TokenizeAnswer,
    TokenizeResult,
)
from app.api.dependencies import Deadline, Model, body_of, built, json_response, unless_gone
from app.api.directions import directions_of, explained_direction, scalar_direction
from app.api.explanation import objectives_result
from app.api.intensities import TargetsOption, aim_or_error, moslim_result
from app.api.schemas import (
    ItemFields,
    ItemsBody,
    MoslimBody,
    ObjectivesBody,
    ScoreBody,
    ScoringOptions,
    TargetedItemBody,
    TokenizeBody,
    items_of,
)
from app.api.state import ServedModel
from app.api.views import answer_frame, directions_used, model_answer, results_of, score_result
from app.domain import IntensityHead, Item, Truncation
from app.errors import ArmoserveError, NotInTheseWeights
from app.preferences import PreferenceDirection
from app.serving.service import ItemReadouts, ScoredItems

if TYPE_CHECKING:
    from app.text.conversation_tokenizer import RenderedItem

router = APIRouter(tags=["scoring"])


@router.post("/score", response_model=ScoreAnswer)
async def score(
    request: Request, model: Model, deadline: Deadline, body: Annotated[ScoreBody, Depends(body_of(ScoreBody))]
) -> Response:
    """Score responses to prompts; with `preferences`, also rank them under each direction."""
    directions = directions_of(body, model.info)
    scalar = scalar_direction(directions, model)
    scored = await _score(request, model, await _items(body), body, deadline)
    return await _answer(scored, model, body, lambda item, _: score_result(item, scalar, directions), _used(directions))


@router.post("/objectives", response_model=ObjectivesAnswer)
async def objectives(
    request: Request,
    model: Model,
    deadline: Deadline,
    body: Annotated[ObjectivesBody, Depends(body_of(ObjectivesBody))],
) -> Response:
    """Explain scores: what each objective contributes, and what made the best response beat the others."""
    direction = explained_direction(directions_of(body, model.info), model, ranked=body.top_k is not None)
    scored = await _score(request, model, await _items(body), body, deadline)
    return await _answer(
        scored,
        model,
        body,
        lambda item, _: objectives_result(item, model.info.objectives, direction, body.top_k),
        _used([direction] if direction else []),
    )


@router.post("/moslim-classify", response_model=MoslimAnswer)
async def moslim_classify(
    request: Request, model: Model, deadline: Deadline, body: Annotated[MoslimBody, Depends(body_of(MoslimBody))]
) -> Response:
    """Classify intensities per head; with `targets`, also map them to a reward."""
    heads = _heads_of(model)
    aimed = [
        aim_or_error(item, _targets(fields, body), heads)
        for item, fields in zip(await _items(body), body.all_items(), strict=True)
    ]
    items = [one if isinstance(one, ArmoserveError) else one[0] for one in aimed]
    targets = [None if isinstance(one, ArmoserveError) else one[1] for one in aimed]
    scored = await _score(request, model, items, body, deadline)
    return await _answer(scored, model, body, lambda item, index: moslim_result(item, targets[index], heads))


@router.post("/tokenize", response_model=TokenizeAnswer)
async def tokenize(model: Model, body: Annotated[TokenizeBody, Depends(body_of(TokenizeBody))]) -> Response:
    """Show what would be scored: the rendered text, its ids, where the prompt ends, what the gating network reads."""
    heads = () if body.targets is None else _heads_of(model)
    aimed = [aim_or_error(item, body.targets, heads) for item in items_of(body)]
    sound = [one if isinstance(one, ArmoserveError) else one[0] for one in aimed]
    rendered = await asyncio.to_thread(_render_all, sound, model, body.truncate)
    results = results_of(rendered, lambda item, _: _tokenize_result(item), is_single=body.is_single)
    return json_response({"results": results, "model": model_answer(model.info)})


async def _items(body: ItemsBody) -> list[Item | ArmoserveError]:
    return await built(partial(items_of, body), len(body.all_items()))


async def _answer(
    scored: ScoredItems,
    model: ServedModel,
    body: ItemsBody,
    view: Callable[[ItemReadouts, int], object],
    more: Mapping[str, object] = MappingProxyType({}),
) -> Response:
    """Return the route's view of what was scored, and what every scoring route adds."""

    def build() -> Response:
        results = results_of(scored.results, view, is_single=body.is_single)
        return json_response({"results": results, **answer_frame(scored, model.info), **more})

    return await built(build, sum(len(one.readouts) for one in scored.results if isinstance(one, ItemReadouts)))


def _used(directions: Sequence[PreferenceDirection]) -> Mapping[str, object]:
    return {"preferences": directions_used(directions)} if directions else {}


def _heads_of(model: ServedModel) -> tuple[IntensityHead, ...]:
    """Return the heads of weights that have some.

    Raises:
        NotInTheseWeights: they have none.
    """
    if not model.info.heads:
        raise NotInTheseWeights("these weights have no MOSLIM heads, which intensities and targets need")
    return model.info.heads


async def _score(
    request: Request,
    model: ServedModel,
    items: Sequence[Item | ArmoserveError],
    options: ScoringOptions,
    deadline: float | None,
) -> ScoredItems:
    """Score those items that make a conversation; the others keep their error, in place."""
    sound = [item for item in items if isinstance(item, Item)]
    scored = await unless_gone(
        request,
        model.service.score(sound, truncation=options.truncate, priority=options.priority, deadline=deadline),
    )
    outcomes = iter(scored.results)
    return replace(scored, results=tuple(next(outcomes) if isinstance(item, Item) else item for item in items))


def _render_all(
    items: Sequence[Item | ArmoserveError], model: ServedModel, truncation: Truncation
) -> list["RenderedItem | ArmoserveError"]:
    return [item if isinstance(item, ArmoserveError) else _render(item, model, truncation) for item in items]


def _render(item: Item, model: ServedModel, truncation: Truncation) -> "RenderedItem | ArmoserveError":
    try:
        return model.render(item, truncation)
    except ArmoserveError as error:
        return error


def _tokenize_result(item: "RenderedItem") -> TokenizeResult:
    return {
        "responses": [
            {
                "text": conversation.text,
                "token_ids": list(conversation.token_ids),
                "prompt_tokens": conversation.num_prompt_tokens,
                "gating_index": conversation.gating_index,
            }
            for conversation in item.conversations
        ],
        "truncated": item.truncated,
    }


def _targets(fields: ItemFields, body: MoslimBody) -> TargetsOption:
    """Return the item's own targets, else the request's."""
    own = fields.targets if isinstance(fields, TargetedItemBody) else None
    return body.targets if own is None else own
