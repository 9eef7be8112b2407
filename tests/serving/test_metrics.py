"""The table of metrics is what is exported, and the values are right."""

import math
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.domain import Objective, Readout
from app.serving.metrics import DURATION_BUCKETS, METRICS, REWARD_BUCKETS, Metrics
from tests.serving.harness import INFO, item, run, serving


def readout(first: float, second: float, gating: tuple[float, float] | None = (0.25, 0.75)) -> Readout:
    shares = None if gating is None else np.array(gating, dtype=np.float32)
    score = None if gating is None else first + second
    return Readout(np.array([first, second], dtype=np.float32), shares, shares, score)


def test_the_table_and_the_registry_name_the_same_metrics() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, INFO)
    metrics.watch_device_memory(lambda: {"allocated": 1.0})
    metrics.watch_prefix_cache(None)
    exported = {family.name: family for family in registry.collect()}
    assert {spec.name.removesuffix("_total") for spec in METRICS} == set(exported)
    for spec in METRICS:
        family = exported[spec.name.removesuffix("_total")]
        assert family.type == spec.kind
        assert family.documentation == spec.meaning
        own_labels = {label for sample in family.samples for label in sample.labels} - {"le", "quantile"}
        assert own_labels <= set(spec.labels)


def test_names_follow_the_conventions() -> None:
    for spec in METRICS:
        assert spec.name.startswith("armoserve_")
        assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert (DURATION_BUCKETS[0], DURATION_BUCKETS[-1]) == (0.001, 60.0)


def test_nothing_is_registered_twice_or_globally() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    Metrics(first, INFO).truncations.inc()
    Metrics(second, INFO)
    assert first.get_sample_value("armoserve_truncations_total") == 1
    assert second.get_sample_value("armoserve_truncations_total") == 0
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(first, INFO)


def test_bounded_labels_start_at_zero_so_that_a_first_event_is_a_rise() -> None:
    registry = CollectorRegistry()
    Metrics(registry, INFO)
    for name, label, values in (
        ("armoserve_failures_total", "kind", ("oom", "nan", "cuda", "other")),
        ("armoserve_dropped_total", "reason", ("cancelled", "deadline", "overload")),
        ("armoserve_tokens_total", "kind", ("prompt", "response", "computed", "shared", "cached")),
    ):
        assert [registry.get_sample_value(name, {label: value}) for value in values] == [0.0] * len(values)


def test_a_served_request_is_measured() -> None:
    async def test() -> None:
        async with serving() as rig:
            await rig.service.score([item("prompt", "a", "bb")])
            tokens = {
                kind: rig.sample("armoserve_tokens_total", kind=kind) for kind in ("prompt", "response", "computed")
            }
            assert tokens == {"prompt": 12, "response": 3, "computed": 9}
            assert rig.sample("armoserve_tokens_total", kind="shared") == 6
            assert rig.sample("armoserve_pack_tokens_sum") == 9
            assert rig.sample("armoserve_pack_responses_sum") == 2
            assert rig.sample("armoserve_forward_seconds_count") == 1
            assert rig.sample("armoserve_tokenize_seconds_count") == 1
            assert rig.sample("armoserve_queue_seconds_count", priority="interactive") == 2
            assert rig.sample("armoserve_queued_tokens", priority="interactive") == 0
            assert rig.sample("armoserve_score_count") == 2

    run(test)


def test_waits_fall_into_the_buckets_of_their_priority() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, INFO)
    metrics.observe_queue("bulk", [0.001, 0.0015, 7.0, 61.0])

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"armoserve_queue_seconds_{name}", labels)

    counts = [sample("bucket", priority="bulk", le=le) for le in ("0.001", "0.002", "5.0", "10.0", "60.0", "+Inf")]
    assert counts == [1, 2, 2, 3, 3, 4]
    assert sample("sum", priority="bulk") == pytest.approx(68.0025)
    assert sample("count", priority="bulk") == 4
    assert sample("count", priority="interactive") == 0


def test_rewards_fall_into_the_buckets_of_the_manifests_quantiles() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, INFO)
    metrics.observe_readouts([readout(0.5, 100.0), readout(0.7, 100.5), readout(-9.0, 999.0)])

    def bucket(objective: str, le: str) -> float | None:
        labels = {"objective": objective, "le": le}
        return registry.get_sample_value("armoserve_objective_reward_bucket", labels)

    assert [bucket("response-sum", le) for le in ("0.0", "100.0", "200.0", "300.0", "+Inf")] == [0, 1, 2, 2, 3]
    assert bucket("prompt-sum", "0.5") == 2  # 0.5 itself and what is below every bound
    assert bucket("prompt-sum", "+Inf") == 3
    assert registry.get_sample_value("armoserve_objective_reward_sum", {"objective": "response-sum"}) == 1199.5
    assert registry.get_sample_value("armoserve_objective_reward_count", {"objective": "prompt-sum"}) == 3
    # Where values are negative there is no sum: one that falls would be read as a counter that began anew.
    assert registry.get_sample_value("armoserve_objective_reward_sum", {"objective": "prompt-sum"}) is None


def test_many_quantiles_are_thinned_and_equal_ones_merged() -> None:
    registry = CollectorRegistry()
    hundred = tuple(n / 100 for n in range(101))
    objectives = (Objective("many", quantiles=hundred), Objective("flat", quantiles=(0.5,) * 101), Objective("none"))
    Metrics(registry, replace(INFO, objectives=objectives))
    bounds: dict[str, list[float]] = {}
    for family in registry.collect():
        if family.name == "armoserve_objective_reward":
            for sample in family.samples:
                if "le" in sample.labels:
                    bounds.setdefault(sample.labels["objective"], []).append(float(sample.labels["le"]))
    assert len(bounds["many"]) == 21
    assert (bounds["many"][0], bounds["many"][-2]) == (0.0, 1.0)
    assert bounds["flat"] == [0.5, math.inf]
    assert bounds["none"] == [*REWARD_BUCKETS, math.inf]


def test_gating_coefficients_have_a_mean_and_an_entropy() -> None:
    registry = CollectorRegistry()
    Metrics(registry, INFO).observe_readouts([readout(0, 0, (0.5, 1.5)), readout(0, 0, (1.0, 0.0))])
    assert registry.get_sample_value("armoserve_gating_coefficient_sum", {"objective": "prompt-sum"}) == 1.5
    assert registry.get_sample_value("armoserve_gating_coefficient_count", {"objective": "prompt-sum"}) == 2
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))  # the scale of 2 does not matter; one-hot adds 0
    assert registry.get_sample_value("armoserve_gating_entropy_sum") == pytest.approx(entropy, rel=1e-6)
    assert registry.get_sample_value("armoserve_gating_entropy_count") == 2


def test_a_model_without_gating_or_score_has_only_rewards() -> None:
    registry = CollectorRegistry()
    Metrics(registry, INFO).observe_readouts([readout(0.1, 0.2, None)])
    assert registry.get_sample_value("armoserve_score_count") == 0
    assert registry.get_sample_value("armoserve_gating_entropy_count") == 0
    assert registry.get_sample_value("armoserve_objective_reward_count", {"objective": "prompt-sum"}) == 1


def test_the_model_and_the_devices_memory_are_shown() -> None:
    registry = CollectorRegistry()
    used = {"allocated": 10.0}
    Metrics(registry, INFO).watch_device_memory(lambda: used)
    used["allocated"] = 20.0
    assert registry.get_sample_value("armoserve_device_memory_bytes", {"kind": "allocated"}) == 20
    text = generate_latest(registry).decode()
    assert 'armoserve_model_info{dtype="float32",name="fake",quantization="none",revision="0123abcd"' in text
