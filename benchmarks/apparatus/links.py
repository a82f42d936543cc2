"""Links between hubs: what a transfer takes, by a model of campus links across continents.

Half of the hubs lie in China, half along the way to Europe and Africa. A stream's rate is limited by loss and round trip
(Mathis et al., "The Macroscopic Behavior of the TCP Congestion Avoidance Algorithm", CCR 1997: MSS x 1.22 / (RTT x
sqrt(loss))), a transfer of several streams by that, by the sender's way up and by the receiver's way down. What agents
measure is the true rate with an error. Places, widths and losses are drawn; nothing here was measured on a real link.
Deliberately not here: two transfers that share a link, and caches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation.scheduling.kernels.room import Float64

STREAMS = 8
SEGMENT_BYTES = 1_460
MATHIS = 1.22
EARTH_KM = 6_371.0
FIBRE_KM_PER_MS = 200.0
DETOUR = 1.7
"""Cables are so much longer than the way along the surface."""
NEAR_MS = 8.0
"""Round trip to a neighbour."""
WIDTH_MBIT_MEDIAN, WIDTH_SPREAD, WIDTH_MBIT_MIN, WIDTH_MBIT_MAX = 100.0, 0.9, 8.0, 1_000.0
LOSS_INSIDE, LOSS_ACROSS = 0.0005, 0.004
"""Of packets; across borders lines are lossy and firewalled."""
MEASURED_SPREAD = 0.25
"""Standard deviation of the logarithm of what is measured, in the true rate."""
CHINA, ROAD = ((22.0, 42.0), (100.0, 122.0)), ((-5.0, 50.0), (10.0, 100.0))
"""Latitudes and longitudes that hubs are drawn from."""


@dataclass(frozen=True, slots=True)
class Links:
    """Between H hubs."""

    bytes_per_s: Float64
    """(H, H) from row to column; on the diagonal infinite: what lies there need not move."""

    def transfer_ms(self, size_bytes: int, source: int) -> Float64:
        """float64 (H,): how long `size_bytes` take from hub `source` to each hub; 0 to itself."""
        times: Float64 = np.ceil(size_bytes / self.bytes_per_s[source] * 1_000.0)
        return times


def links(hubs: int, seed: int) -> Links:
    """The true links of `hubs` hubs for a seed."""
    rng = np.random.default_rng((seed, hubs, 13))
    inside = np.arange(hubs) % 2 == 0
    latitude = np.where(inside, rng.uniform(*CHINA[0], hubs), rng.uniform(*ROAD[0], hubs))
    longitude = np.where(inside, rng.uniform(*CHINA[1], hubs), rng.uniform(*ROAD[1], hubs))
    round_trip_ms = NEAR_MS + 2.0 * DETOUR * _distance_km(np.radians(latitude), np.radians(longitude)) / FIBRE_KM_PER_MS
    loss = np.where(inside[:, None] & inside[None, :], LOSS_INSIDE, LOSS_ACROSS)
    stream = SEGMENT_BYTES * MATHIS / (round_trip_ms / 1_000.0 * np.sqrt(loss))
    width = np.clip(WIDTH_MBIT_MEDIAN * rng.lognormal(0.0, WIDTH_SPREAD, hubs), WIDTH_MBIT_MIN, WIDTH_MBIT_MAX) * (
        1_000_000 / 8
    )
    rate = np.minimum(STREAMS * stream, np.minimum(width[:, None], width[None, :]))
    np.fill_diagonal(rate, np.inf)
    return Links(rate)


def measured(true: Links, seed: int) -> Links:
    """What agents report of `true` links."""
    rng = np.random.default_rng((seed, len(true.bytes_per_s), 17))
    return Links(true.bytes_per_s * rng.lognormal(0.0, MEASURED_SPREAD, true.bytes_per_s.shape))


def _distance_km(latitude: Float64, longitude: Float64) -> Float64:
    """(H, H) along the surface (haversine); angles in radians."""
    across, along = latitude[:, None] - latitude[None, :], longitude[:, None] - longitude[None, :]
    chord = np.sin(across / 2) ** 2 + np.cos(latitude[:, None]) * np.cos(latitude[None, :]) * np.sin(along / 2) ** 2
    distance: Float64 = 2 * EARTH_KM * np.arcsin(np.sqrt(np.minimum(chord, 1.0)))
    return distance
