"""Who a caller is, for those who take turns in the queue: a key where there are keys, else an address."""

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from tests.api.fake_engine import HOLD
from tests.api.serving import serving, wait_until


@pytest.mark.parametrize(
    ("keys", "headers", "callers"),
    [
        (
            "one,two",
            [{"X-API-Key": "one"}, {"Authorization": "Bearer two"}],
            {sha256(b"one").hexdigest(), sha256(b"two").hexdigest()},
        ),
        ("", [{"X-API-Key": "one"}, {"X-Forwarded-For": "10.0.0.1"}], {"127.0.0.1"}),
    ],
    ids=["with keys the key", "without keys the address, whatever is shown"],
)
def test_who_a_caller_is(keys: str, headers: list[dict[str, str]], callers: set[str]) -> None:
    settings = {"api_keys": keys} if keys else {}
    with serving(**settings) as running, ThreadPoolExecutor() as pool:
        assert running.state.model is not None
        line = running.state.model.service._queue._lines["interactive"]
        pool.submit(running.post, "/score", {"prompt": "a", "response": HOLD}, headers=headers[0])
        assert running.fake.holding.wait(20)
        body = {"prompt": "a", "response": "b"}
        asked = [pool.submit(running.post, "/score", body, headers=one) for one in headers]
        wait_until(lambda: len(line) == 2)
        assert {job.caller for job in line} == callers
        running.fake.release.set()
        assert [one.result().status_code for one in asked] == [200, 200]
