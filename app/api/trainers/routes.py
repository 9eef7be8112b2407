"""The routes of trainers and reward clients with one wire format each; `get_reward.py` has the one that two share."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.api.dependencies import body_of
from app.api.trainers.call import Call
from app.api.trainers.llamafactory import ScoreEvaluationAnswer, ScoreEvaluationBody
from app.api.trainers.nim import ChatAnswer, ChatBody
from app.api.trainers.rerank import RerankAnswer, RerankBody
from app.api.trainers.vllm import (
    ClassifyAnswer,
    ClassifyBody,
    EmbeddingsAnswer,
    EmbeddingsBody,
    PoolingAnswer,
    PoolingBody,
)

router = APIRouter(tags=["trainers"])


@router.post("/v1/score/evaluation", response_model=ScoreEvaluationAnswer)
async def score_evaluation(
    call: Call, body: Annotated[ScoreEvaluationBody, Depends(body_of(ScoreEvaluationBody))]
) -> Response:
    """Score texts as LlamaFactory asks for it."""
    return await call.answer(body)


@router.post("/classify", response_model=ClassifyAnswer)
async def classify(call: Call, body: Annotated[ClassifyBody, Depends(body_of(ClassifyBody))]) -> Response:
    """Reward conversations as verl and vLLM's clients ask for it: `probs` holds the raw reward."""
    return await call.answer(body)


@router.post("/pooling", response_model=PoolingAnswer)
async def pooling(call: Call, body: Annotated[PoolingBody, Depends(body_of(PoolingBody))]) -> Response:
    """Reward conversations as vLLM's clients ask for it: the reward, then every objective's."""
    return await call.answer(body)


@router.post("/v1/embeddings", response_model=EmbeddingsAnswer)
async def embeddings(call: Call, body: Annotated[EmbeddingsBody, Depends(body_of(EmbeddingsBody))]) -> Response:
    """Reward conversations as verl asks SGLang for it: an embedding whose one element is the reward."""
    return await call.answer(body)


@router.post("/v1/chat/completions", response_model=ChatAnswer)
async def chat_completions(call: Call, body: Annotated[ChatBody, Depends(body_of(ChatBody))]) -> Response:
    """Reward the last message as clients of NIM ask for it: the values stand where log probabilities would."""
    return await call.answer(body)


@router.post("/rerank", response_model=RerankAnswer)
@router.post("/v1/rerank", response_model=RerankAnswer)
@router.post("/v2/rerank", response_model=RerankAnswer)
async def rerank(call: Call, body: Annotated[RerankBody, Depends(body_of(RerankBody))]) -> Response:
    """Rank responses to a prompt, the best first, as rerank clients ask for it."""
    return await call.answer(body)
