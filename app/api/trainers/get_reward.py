"""`POST /get_reward`, which OpenRLHF and slime share: which of the two a body is, and the way through."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import Discriminator, RootModel, Tag

from app.api.dependencies import body_of
from app.api.trainers.call import Call
from app.api.trainers.openrlhf import OpenRlhfAnswer, OpenRlhfBody
from app.api.trainers.slime import SlimeAnswer, SlimeBody

FORMS = "a body is OpenRLHF's {query, prompts, labels} or slime's {prompt, response, label}; this one is neither"

router = APIRouter(tags=["trainers"])


def _form(content: Any) -> str | None:
    if isinstance(content, OpenRlhfBody) or (isinstance(content, dict) and "query" in content):
        return "(openrlhf)"
    if isinstance(content, SlimeBody) or (isinstance(content, dict) and not {"prompt", "response"}.isdisjoint(content)):
        return "(slime)"
    return None


class RewardBody(
    RootModel[
        Annotated[
            Annotated[OpenRlhfBody, Tag("(openrlhf)")] | Annotated[SlimeBody, Tag("(slime)")],
            Discriminator(
                _form, custom_error_type="form", custom_error_message="{forms}", custom_error_context={"forms": FORMS}
            ),
        ]
    ]
):
    """The body of `POST /get_reward`: OpenRLHF's or slime's."""


@router.post("/get_reward", response_model=OpenRlhfAnswer | SlimeAnswer)
async def get_reward(call: Call, body: Annotated[RewardBody, Depends(body_of(RewardBody))]) -> Response:
    """Reward responses as OpenRLHF and slime ask for it; the query says what the reward is."""
    return await call.answer(body.root)
