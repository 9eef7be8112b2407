"""Prometheus metrics that take whole arrays: a pack brings hundreds of values, and observing them one by one would
cost more than the rest of the service. Knows no metric by name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import ArrayLike, NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

from app.domain import FloatArray


@dataclass(frozen=True, slots=True)
class Series:
    """One row of an array histogram: the value of its label, and its ascending bucket bounds."""

    label_value: str
    bounds: tuple[float, ...]


class ArrayHistogram(Collector):
    """A histogram whose S series, each with bounds of its own, are observed together; without labels S is 1."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], series: Sequence[Series]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._series = tuple(series)
        self._lock = Lock()
        self._counts = [np.zeros(len(one.bounds) + 1, dtype=np.int64) for one in self._series]
        self._sums = np.zeros(len(self._series))

    def observe(self, values_RS: FloatArray) -> None:
        """Count R values of each of the S series in."""
        with self._lock:
            self._sums += values_RS.sum(axis=0, dtype=np.float64)
            for index in range(len(self._series)):
                self._count(index, values_RS[:, index])

    def observe_series(self, label_value: str, values_R: ArrayLike) -> None:
        """Count R values of one series in."""
        values_R = np.asarray(values_R, dtype=np.float64)
        index = next(index for index, one in enumerate(self._series) if one.label_value == label_value)
        with self._lock:
            self._sums[index] += values_R.sum()
            self._count(index, values_R)

    def _count(self, index: int, values_R: FloatArray | NDArray[np.float64]) -> None:
        bounds = self._series[index].bounds
        self._counts[index] += np.bincount(np.searchsorted(bounds, values_R, side="left"), minlength=len(bounds) + 1)

    def describe(self) -> Iterable[HistogramMetricFamily]:
        return [HistogramMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        with self._lock:
            for one, counts, total in zip(self._series, self._counts, self._sums, strict=True):
                labels = dict(zip(self._labels, [one.label_value], strict=False))
                for edge, count in zip((*map(str, one.bounds), "+Inf"), np.cumsum(counts).tolist(), strict=True):
                    family.add_sample(f"{self._name}_bucket", labels | {"le": edge}, count)
                family.add_sample(f"{self._name}_count", labels, int(counts.sum()))
                if one.bounds[0] >= 0:  # a sum that can fall would be read as a counter that began anew
                    family.add_sample(f"{self._name}_sum", labels, float(total))
        return [family]


class ArraySummary(Collector):
    """A summary (sum and count) over one label, whose S series are observed together."""

    def __init__(self, name: str, documentation: str, label: str, label_values: Sequence[str]) -> None:
        self._name, self._documentation, self._label = name, documentation, label
        self._label_values = tuple(label_values)
        self._lock = Lock()
        self._count = 0
        self._sums = np.zeros(len(self._label_values))

    def observe(self, values_RS: FloatArray) -> None:
        """Count R values of each of the S series in."""
        with self._lock:
            self._count += len(values_RS)
            self._sums += values_RS.sum(axis=0, dtype=np.float64)

    def describe(self) -> Iterable[SummaryMetricFamily]:
        return [SummaryMetricFamily(self._name, self._documentation, labels=[self._label])]

    def collect(self) -> Iterable[SummaryMetricFamily]:
        family = SummaryMetricFamily(self._name, self._documentation, labels=[self._label])
        with self._lock:
            for value, total in zip(self._label_values, self._sums, strict=True):
                family.add_metric([value], self._count, float(total))
        return [family]


class CallableMetric(Collector):
    """A gauge, or a counter where its name ends so, that is read when it is scraped.

    What is read is label value → number; without labels, of an empty one.
    """

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], read: Callable[[], Mapping[str, float]]
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._read = read
        self._family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily

    def describe(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        return [self._family(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        family = self._family(self._name, self._documentation, labels=self._labels)
        for label_value, number in self._read().items():
            family.add_metric([label_value] if self._labels else [], number)
        return [family]
