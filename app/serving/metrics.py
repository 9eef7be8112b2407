"""Every metric of the service: its name, type, labels and meaning. Nothing else defines one.

Queue, batcher, service and edge feed them. Label values are bounded, and none is a caller's text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Literal, get_args

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.domain import FloatArray, ModelInfo, Readout
from app.packing import Pack, PrefixMemory
from app.serving.array_metrics import ArrayHistogram, ArraySummary, CallableMetric, Series
from app.serving.drift import ScoreDrift
from app.serving.jobs import Priority
from app.serving.length_correlation import LengthCorrelation
from app.text.foreign_templates import Oddity

DropReason = Literal["cancelled", "deadline", "overload"]
FailureKind = Literal["oom", "nan", "cuda", "other"]

DURATION_BUCKETS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0,
)  # fmt: skip
"""Seconds: from a cached response on a GPU to a long queue."""
TOKEN_BUCKETS = tuple(float(2**power) for power in range(6, 18))
RESPONSE_BUCKETS = tuple(float(2**power) for power in range(11))
REWARD_BUCKETS = (
    -2.0,
    -1.0,
    -0.5,
    -0.2,
    -0.1,
    0.0,
    0.05,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    1.0,
    2.0,
    5.0,
)
"""Where the manifest has no quantiles: fine in [0, 1], where ratings are mapped to, and open to what is not."""
MAX_QUANTILE_BUCKETS = 20
ENTROPY_BUCKETS = 10


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One row of the table of metrics."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    labels: tuple[str, ...]
    meaning: str


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("armoserve_requests_total", "counter", ("route", "status"), "Requests answered"),
    MetricSpec("armoserve_request_seconds", "histogram", ("route",), "Time from a request's first byte to its answer"),
    MetricSpec("armoserve_tokenize_seconds", "histogram", (), "Time to tokenize one request"),
    MetricSpec("armoserve_queue_seconds", "histogram", ("priority",), "Time one response waited for its forward pass"),
    MetricSpec("armoserve_forward_seconds", "histogram", (), "Time of one forward pass"),
    MetricSpec("armoserve_pack_tokens", "histogram", (), "Tokens computed in one forward pass"),
    MetricSpec("armoserve_pack_responses", "histogram", (), "Responses scored in one forward pass"),
    MetricSpec(
        "armoserve_tokens_total",
        "counter",
        ("kind",),
        "Tokens: prompt + response as if nothing were shared = computed + shared + cached",
    ),
    MetricSpec("armoserve_queued_tokens", "gauge", ("priority",), "Tokens that wait to be computed"),
    MetricSpec(
        "armoserve_queue_wait_estimate_seconds", "gauge", (), "Estimated time to compute all that waits or runs"
    ),
    MetricSpec("armoserve_dropped_total", "counter", ("reason",), "Responses dropped before their forward pass"),
    MetricSpec("armoserve_failures_total", "counter", ("kind",), "Responses whose forward pass failed"),
    MetricSpec("armoserve_truncations_total", "counter", (), "Items whose prompt was truncated at the caller's wish"),
    MetricSpec(
        "armoserve_template_warnings_total", "counter", ("kind",), "Oddities met in texts of trainers' templates"
    ),
    MetricSpec("armoserve_prefix_cache_tokens", "gauge", (), "Tokens of prompts whose keys and values are kept"),
    MetricSpec(
        "armoserve_prefix_cache_hits_total", "counter", (), "Prompts of packs of which all or a beginning was kept"
    ),
    MetricSpec("armoserve_prefix_cache_evictions_total", "counter", (), "Runs of tokens dropped from the prefix cache"),
    MetricSpec("armoserve_device_memory_bytes", "gauge", ("kind",), "Memory of the device"),
    MetricSpec(
        "armoserve_model_info",
        "gauge",
        ("name", "revision", "template", "dtype", "quantization"),
        "The model served: 1",
    ),
    MetricSpec("armoserve_score", "histogram", (), "Preference scores given; buckets from the manifest's quantiles"),
    MetricSpec(
        "armoserve_objective_reward", "histogram", ("objective",), "Raw rewards; buckets from the manifest's quantiles"
    ),
    MetricSpec(
        "armoserve_gating_coefficient", "summary", ("objective",), "Gating coefficients; sum over count is their mean"
    ),
    MetricSpec(
        "armoserve_gating_entropy", "histogram", (), "Entropy in nats of the gating coefficients over objectives"
    ),
    MetricSpec(
        "armoserve_score_length_correlation",
        "gauge",
        (),
        "Spearman of score and response tokens within a prompt, mean over the last 256 with three or more responses",
    ),
    MetricSpec(
        "armoserve_score_drift",
        "gauge",
        ("against",),
        "Population stability index of the last 2048 scores: against the manifest's quantiles, and the 2048 before",
    ),
)


class Metrics:
    """The metrics of one process, registered in the given registry."""

    def __init__(self, registry: CollectorRegistry, info: ModelInfo) -> None:
        self.registry = registry
        self.requests = self._counter("armoserve_requests_total")
        self.request_seconds = self._histogram("armoserve_request_seconds", DURATION_BUCKETS)
        self.tokenize_seconds = self._histogram("armoserve_tokenize_seconds", DURATION_BUCKETS)
        self._queue_seconds = self._array_histogram(
            "armoserve_queue_seconds", [Series(priority, DURATION_BUCKETS) for priority in get_args(Priority)]
        )
        self.forward_seconds = self._histogram("armoserve_forward_seconds", DURATION_BUCKETS)
        self.pack_tokens = self._histogram("armoserve_pack_tokens", TOKEN_BUCKETS)
        self.pack_responses = self._histogram("armoserve_pack_responses", RESPONSE_BUCKETS)
        self.tokens = self._counter("armoserve_tokens_total", "prompt", "response", "computed", "shared", "cached")
        self.queued_tokens = self._gauge("armoserve_queued_tokens")
        self.queue_wait_estimate = self._gauge("armoserve_queue_wait_estimate_seconds")
        self.dropped = self._counter("armoserve_dropped_total", *get_args(DropReason))
        self.failures = self._counter("armoserve_failures_total", *get_args(FailureKind))
        self.truncations = self._counter("armoserve_truncations_total")
        self.template_warnings = self._counter("armoserve_template_warnings_total", *get_args(Oddity))
        self.prefix_cache_hits = self._counter("armoserve_prefix_cache_hits_total")
        model_info = self._gauge("armoserve_model_info")
        model_info.labels(info.name, info.revision, info.template, info.precision, info.quantization).set(1)
        self._register_arrays(info)

    def watch_device_memory(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Read `armoserve_device_memory_bytes` at every scrape from `read`: kind of memory → bytes."""
        self._read_at_scrape("armoserve_device_memory_bytes", read)

    def watch_prefix_cache(self, memory: PrefixMemory | None) -> None:
        """Read what a prefix cache holds and has dropped at every scrape; without one, that is nothing."""

        def read(name: str) -> Mapping[str, float]:
            return {"": 0 if memory is None else getattr(memory, name)}

        self._read_at_scrape("armoserve_prefix_cache_tokens", partial(read, "num_tokens"))
        self._read_at_scrape("armoserve_prefix_cache_evictions_total", partial(read, "num_evictions"))

    def observe_pack(self, pack: Pack, seconds: float) -> None:
        """Count a forward pass in that took `seconds`."""
        response_tokens = int(pack.response_tokens_R.sum())
        self.forward_seconds.observe(seconds)
        self.pack_tokens.observe(pack.num_tokens)
        self.pack_responses.observe(pack.num_responses)
        self.tokens.labels("prompt").inc(pack.num_logical_tokens - response_tokens)
        self.tokens.labels("response").inc(response_tokens)
        self.tokens.labels("computed").inc(pack.num_tokens)
        self.tokens.labels("cached").inc(pack.num_cached_tokens)
        self.tokens.labels("shared").inc(pack.num_logical_tokens - pack.num_tokens - pack.num_cached_tokens)
        self.prefix_cache_hits.inc(sum(one is not None and one.num_tokens > 0 for one in pack.cached_P))

    def observe_readouts(self, readouts: Sequence[Readout]) -> None:
        """Count the values of finite readouts in; all are of one model."""
        if not readouts:
            return
        self._rewards.observe(np.stack([readout.rewards for readout in readouts]))
        scores = [readout.score for readout in readouts if readout.score is not None]
        self._score.observe(np.array(scores, dtype=np.float32).reshape(-1, 1))
        self._drift.observe(scores)
        gating = [readout.gating for readout in readouts if readout.gating is not None]
        if gating:
            gating_RK = np.stack(gating)
            self._gating.observe(gating_RK)
            self._gating_entropy.observe(_entropy(gating_RK)[:, None])

    def observe_queue(self, priority: Priority, seconds: Sequence[float]) -> None:
        """Count in how long each of these responses waited."""
        self._queue_seconds.observe_series(priority, np.asarray(seconds))

    def observe_lengths(self, scores_R: FloatArray | None, pack: Pack) -> None:
        """Hold the scores of a pack's responses, where the model gives some, against their lengths."""
        if scores_R is not None and pack.num_responses > 2:
            self._length_correlation.observe(scores_R, pack.response_tokens_R, pack.prefix_of_response_R)

    def _register_arrays(self, info: ModelInfo) -> None:
        objectives = [Series(one.name, _bounds(one.quantiles)) for one in info.objectives]
        highest_entropy = log(max(len(info.objectives), 2))
        entropy_bounds = tuple(highest_entropy * step / ENTROPY_BUCKETS for step in range(1, ENTROPY_BUCKETS + 1))
        self._rewards = self._array_histogram("armoserve_objective_reward", objectives)
        self._score = self._array_histogram("armoserve_score", [Series("", _bounds(info.score_quantiles))])
        self._gating_entropy = self._array_histogram("armoserve_gating_entropy", [Series("", entropy_bounds)])
        spec = _spec("armoserve_gating_coefficient")
        self._gating = ArraySummary(spec.name, spec.meaning, spec.labels[0], info.objective_names)
        self.registry.register(self._gating)
        self._drift, self._length_correlation = ScoreDrift(info.score_quantiles), LengthCorrelation()
        self._read_at_scrape("armoserve_score_drift", self._drift.read)
        self._read_at_scrape("armoserve_score_length_correlation", self._length_correlation.read)

    def _counter(self, name: str, *label_values: str) -> Counter:
        spec = _spec(name)
        counter = Counter(name, spec.meaning, spec.labels, registry=self.registry)
        for value in label_values:
            counter.labels(value)  # from zero, so that a first event is a rise and not a new series
        return counter

    def _gauge(self, name: str) -> Gauge:
        spec = _spec(name)
        return Gauge(name, spec.meaning, spec.labels, registry=self.registry)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        spec = _spec(name)
        return Histogram(name, spec.meaning, spec.labels, registry=self.registry, buckets=buckets)

    def _read_at_scrape(self, name: str, read: Callable[[], Mapping[str, float]]) -> None:
        spec = _spec(name)
        self.registry.register(CallableMetric(name, spec.meaning, spec.labels, read))

    def _array_histogram(self, name: str, series: Sequence[Series]) -> ArrayHistogram:
        spec = _spec(name)
        histogram = ArrayHistogram(name, spec.meaning, spec.labels, series)
        self.registry.register(histogram)
        return histogram


def _spec(name: str) -> MetricSpec:
    return next(spec for spec in METRICS if spec.name == name)


def _bounds(quantiles: Sequence[float]) -> tuple[float, ...]:
    """Choose at most `MAX_QUANTILE_BUCKETS` ascending bounds, evenly over the quantiles."""
    if not quantiles:
        return REWARD_BUCKETS
    chosen = np.linspace(0, len(quantiles) - 1, min(len(quantiles), MAX_QUANTILE_BUCKETS)).round().astype(int)
    return tuple(np.unique(np.asarray(quantiles, dtype=np.float64)[chosen]).tolist())


def _entropy(gating_RK: FloatArray) -> FloatArray:
    shares_RK = gating_RK / gating_RK.sum(axis=-1, keepdims=True)  # a logit scale other than 1 cancels
    logs_RK = np.log(shares_RK, where=shares_RK > 0, out=np.zeros_like(shares_RK))
    entropy_R: FloatArray = -(shares_RK * logs_RK).sum(axis=-1)
    return entropy_R
