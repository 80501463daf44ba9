"""How much of everything a run of the benchmark does: in full, and just enough to see it run."""

from __future__ import annotations

import msgspec


class Sizes(msgspec.Struct, frozen=True):
    """Counts; `settle_s` is how long a daemon is left alone before its memory is read."""

    starts: int = 5
    syncs: int = 200
    round_trips: int = 1000
    requests: int = 200
    settle_s: float = 2.0
    sessions_in_memory: int = 1000
    creates: int = 300
    creates_at_once: int = 1000
    turns: int = 200
    deltas: int = 2000
    paced_deltas: int = 200
    at_once: tuple[int, ...] = (10, 100, 200)
    crowd: tuple[int, ...] = (1000,)
    bare_at_once: tuple[int, ...] = (200, 1000)
    deltas_at_once: int = 50
    aborts: int = 100
    stored: int = 1000
    resumed_turns: int = 100
    kills: int = 8
    live: int = 10_000
    turns_among_live: int = 200
    rows: int = 100_000
    pages: int = 20
    long_turns: int = 10_000
    half_open: int = 1000
    stuck: int = 50


QUICK = Sizes(
    starts=1,
    syncs=5,
    round_trips=10,
    requests=5,
    settle_s=0.0,
    sessions_in_memory=5,
    creates=5,
    creates_at_once=10,
    turns=10,
    deltas=50,
    paced_deltas=10,
    at_once=(3,),
    crowd=(5,),
    bare_at_once=(3, 5),
    deltas_at_once=5,
    aborts=3,
    stored=10,
    resumed_turns=3,
    kills=1,
    live=20,
    turns_among_live=5,
    rows=120,
    pages=2,
    long_turns=5,
    half_open=5,
    stuck=3,
)
