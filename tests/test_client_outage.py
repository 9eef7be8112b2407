"""What is said while the service gives no answer: whatever lasts, once, and that it is over."""

from collections.abc import Iterator

import httpx
import pytest

from app import client_outage
from app.client import RewardClient
from app.client_exchange import Event, Lost, Reply, Send, deliver
from app.client_outage import Outage
from tests.counting_service import handle
from tests.test_client_exchange import Driver

GET = Send("GET", "/info")
OK = Reply(200, {}, b"{}")
GONE = "the service gives no answer (ConnectError): waiting, for up to 600 seconds"
Log = pytest.LogCaptureFixture


def test_what_lasts_is_said_once_and_that_it_is_over(caplog: Log) -> None:
    driver = Driver([*[Lost("ConnectError")] * 30, OK])
    driver.drive(deliver(GET, driver.patience()))
    first, last = caplog.messages
    assert first.startswith("the service gives no answer (ConnectError): waiting, for up to ")
    assert last == f"the service answers again, after {sum(driver.pauses):.0f} seconds"
    assert {record.levelname for record in caplog.records} == {"WARNING"}  # shown where nobody sets up a log


def test_a_try_that_takes_long_is_said_when_it_has_failed(caplog: Log) -> None:
    driver = Driver([])

    def times_out_once() -> Iterator[Event]:
        driver.now += 120.0
        yield Lost("ReadTimeout")
        yield OK

    driver.events = times_out_once()
    driver.drive(deliver(GET, driver.patience()))
    assert caplog.messages[0] == GONE.replace("ConnectError", "ReadTimeout")


def test_the_requests_of_a_client_say_it_together(caplog: Log) -> None:
    outage = Outage()
    for asked_at in (10.0, 11.0):
        outage.fails(asked_at, 14.0, "ConnectError", 600.0)
    outage.fails(10.0, 20.0, "status 503 not-ready", 594.0)
    assert caplog.messages == [GONE]
    outage.ends(22.0)
    outage.ends(22.5)
    assert caplog.messages == [GONE, "the service answers again, after 12 seconds"]
    outage.fails(30.0, 33.0, "ConnectError", 600.0)
    assert caplog.messages[2:] == [GONE]


@pytest.mark.parametrize("event", [Lost("ReadError"), Reply(429, {"retry-after": "1"}, b"")])
def test_what_passes_at_once_is_not_said(event: Event, caplog: Log) -> None:
    driver = Driver([event, OK])
    driver.drive(deliver(GET, driver.patience()))
    assert caplog.messages == []


def test_an_overload_in_which_others_are_answered_is_not_said(caplog: Log) -> None:
    outage = Outage()
    for second in range(60):
        outage.ends(float(second))
        outage.fails(0.0, second + 0.9, "status 429 overloaded", 600.0)
    assert caplog.messages == []


def test_the_service_is_named_without_what_its_address_keeps_secret(
    caplog: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_outage, "SILENT_SECONDS", 0.0)
    failures = iter([httpx.Response(503, headers={"retry-after": "0"})])
    transport = httpx.MockTransport(lambda request: next(failures, None) or handle(request))
    with RewardClient("http://me:secret@rewards:81", transport=transport) as client:
        client.info()
    first, last = caplog.messages
    assert first == "http://rewards:81 gives no answer (status 503): waiting, for up to 600 seconds"
    assert last.startswith("http://rewards:81 answers again, after ")
