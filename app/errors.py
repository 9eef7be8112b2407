"""Every error armoserve raises on purpose, as one tree. HTTP statuses live in `app.api.problems`.

ArmoserveError
├── RequestError                 the caller can mend it; the message says how and never echoes text
│   ├── MalformedBody            JSON or schema; names the field
│   ├── InvalidConversation      roles out of order, no response
│   ├── UnknownName              objective, composite, head or level that these weights do not have
│   ├── PreferenceRequired       several objectives and no way to a scalar
│   ├── ConflictingOptions       two options that each say what the reward is
│   ├── NotInTheseWeights        MOSLIM heads or gating the weights do not have
│   ├── TooManyTokens            over the model's or the pack's limit
│   ├── BodyTooLarge             over `max_body_bytes`
│   ├── StreamStalled            the caller of a stream neither sent nor took what was due
│   └── Unauthorized             key missing or wrong
├── Unavailable                  the same request may succeed later
│   ├── NotReady                 still loading
│   ├── Draining                 SIGTERM was received
│   ├── Overloaded               the queue is full
│   │   └── TrainerOverloaded    and stayed so while a trainer waited
│   └── DeadlineExceeded         the caller's deadline passed before the forward began
├── InferenceFailed              a pack failed; its jobs fail, the service goes on
│   ├── DeviceOutOfMemory        the pack did not fit; it is halved and tried again
│   ├── NonFiniteReadout         NaN or infinity came out of the model
│   └── DevicePoisoned           the device context is beyond repair; the process must exit
├── ClientError                  raised where `app.client` is used, never while serving: there is no status for it
│   ├── RequestRefused           the service will not take this request; with its problem's type, title and detail
│   ├── BadAnswer                an answer that cannot be trusted: wrong lengths, missing fields, no finite numbers
│   ├── RevisionChanged          another model answers than did at first; scores of two must not be mixed
│   └── ServiceUnreachable       no answer for as long as the client was told to keep trying
└── StartError                   the process cannot start; one line says why
    ├── InvalidSetting           names the setting, the value and what is allowed
    └── InvalidWeights           missing, extra, misshapen or altered tensors; a bad manifest
"""


class ArmoserveError(Exception):
    """Base of every error raised on purpose; its message is fit for a caller to read."""


class RequestError(ArmoserveError):
    """The request is at fault and the caller can mend it."""


class MalformedBody(RequestError):
    """The body is not JSON or does not fit the schema."""

    def __init__(self, message: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields
        """Pairs of (path of the field, what is wrong with it)."""


class InvalidConversation(RequestError):
    """The roles are out of order, or there is nothing to score."""


class UnknownName(RequestError):
    """An objective, composite, head or level that these weights do not have."""


class PreferenceRequired(RequestError):
    """Several objectives without gating have no scalar of their own."""


class ConflictingOptions(RequestError):
    """Two options each say what the reward is."""


class NotInTheseWeights(RequestError):
    """The loaded weights lack the heads that this route reads."""


class TooManyTokens(RequestError):
    """A conversation is longer than the model or a pack can take."""


class BodyTooLarge(RequestError):
    """The body is larger than `max_body_bytes`."""


class StreamStalled(RequestError):
    """The caller of a stream neither sent anything nor took what was due for `stream_stall_seconds`."""


class Unauthorized(RequestError):
    """The API key is missing or wrong."""


class Unavailable(ArmoserveError):
    """The service cannot take this request now; the same request may succeed later."""


class NotReady(Unavailable):
    """The weights are still being loaded or checked."""


class Draining(Unavailable):
    """The service is shutting down and takes no new work."""


class Overloaded(Unavailable):
    """The queue holds more work than can be done in time."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TrainerOverloaded(Overloaded):
    """The queue stayed full for as long as a trainer's request waits; trainers take 503, not 429, for `come back`."""


class DeadlineExceeded(Unavailable):
    """The caller's deadline passed before the forward began."""


class InferenceFailed(ArmoserveError):
    """A pack failed in the model; the cause is in the log with the request id."""


class DeviceOutOfMemory(InferenceFailed):
    """The pack did not fit into the device's memory."""


class NonFiniteReadout(InferenceFailed):
    """The model gave NaN or infinity for this conversation."""


class DevicePoisoned(InferenceFailed):
    """The device context is beyond repair; only a new process helps."""


class ClientError(ArmoserveError):
    """The client of a service cannot go on; the service itself never raises it."""


class RequestRefused(ClientError):
    """The service answered, and the same request will be refused again: the caller has to mend it."""

    def __init__(self, status: int, kind: str, title: str, detail: str) -> None:
        super().__init__(f"the service refused with {status} {kind}: {title}{detail and ': '}{detail}")
        self.status = status
        self.type = kind
        self.title = title
        self.detail = detail


class BadAnswer(ClientError):
    """The service answered 200 with what cannot be rewards; the message names the field and what is wrong with it."""


class RevisionChanged(ClientError):
    """Another model answers than the one that answered first."""


class ServiceUnreachable(ClientError):
    """The service could not be reached, or was overloaded, for as long as the client keeps trying."""


class StartError(ArmoserveError):
    """The process cannot start; the message is one line."""


class InvalidSetting(StartError):
    """A setting has a value that is not allowed."""


class InvalidWeights(StartError):
    """A weights folder is incomplete, altered or not understood."""
