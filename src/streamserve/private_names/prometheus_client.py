"""prometheus_client: a histogram's sum and buckets. Without them, each observation counts one by one, at its bound."""

from collections.abc import Sequence
from math import inf, nextafter

from prometheus_client import Histogram


def observe_many(histogram: Histogram, bounds: Sequence[float], counts: Sequence[int], total: float) -> None:
    """Add many observations at once, for which prometheus_client has no public method.

    Args:
        histogram: a histogram with its labels set.
        bounds: upper bounds of its buckets, without the last one (infinity).
        counts: observations for each bucket, the last one included.
        total: sum of all observations.
    """
    buckets, added = getattr(histogram, "_buckets", None), getattr(histogram, "_sum", None)
    if buckets is None or added is None:
        for bound, count in zip((*bounds, nextafter(bounds[-1], inf)), counts, strict=True):
            for _ in range(count):
                histogram.observe(bound)
        return
    added.inc(total)
    for bucket, count in zip(buckets, counts, strict=True):
        if count:
            bucket.inc(count)
