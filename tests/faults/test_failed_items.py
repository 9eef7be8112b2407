"""A pack that fails takes its own items with it, and no others."""

import pytest

from app.errors import InferenceFailed
from tests.faults.test_engine_faults import assert_answers, raising, where_prompt
from tests.serving.harness import expected_rewards, item, rewards_of, run, serving


def test_an_item_whose_pack_failed_is_an_error_beside_the_others() -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=5) as rig:
            rig.engine.fault = where_prompt("bad!", raising(RuntimeError()))
            scored = await rig.service.score([item("next", "2"), item("bad!", "1"), item("last", "3")])
            assert isinstance(scored.results[1], InferenceFailed)
            assert rewards_of(scored.results[0]) == [expected_rewards("next", "2")]
            assert rewards_of(scored.results[2]) == [expected_rewards("last", "3")]

    run(test)


def test_one_failed_response_fails_its_item() -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=5) as rig:
            broken = raising(RuntimeError())
            rig.engine.fault = lambda pack: broken(pack) if ord("x") in pack.token_ids_T else None
            scored = await rig.service.score([item("four", "1", "x", "2"), item("last", "3")])
            assert isinstance(scored.results[0], InferenceFailed)
            assert rewards_of(scored.results[1]) == [expected_rewards("last", "3")]

    run(test)


def test_a_request_all_of_whose_items_failed_has_failed() -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=5) as rig:
            rig.engine.fault = raising(RuntimeError())
            with pytest.raises(InferenceFailed):
                await rig.service.score([item("bad!", "1"), item("next", "2")])
            rig.engine.fault = lambda pack: None
            await assert_answers(rig)

    run(test)
