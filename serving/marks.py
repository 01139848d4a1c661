"""What the service's store says must not be learned from: marked events, and what incidents and faults exclude."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from forecaster.chunks import Span
from forecaster.cycle import Cycle
from forecaster.domain import Event
from forecaster.errors import InputError


def of_store(url: str) -> tuple[Sequence[Event], Mapping[str, Sequence[Span]]] | None:
    """(events, row key -> spans); None where there is no store. Raises InputError where it cannot be read."""
    from serving.server import open_store
    from serving.store import existing

    try:
        existing(url)
    except InputError:
        return None
    store = open_store(url)
    try:
        events = tuple(store.events.values())
        states, _ = store.load_states({"excluded": Cycle.STATE_VERSIONS["excluded"]})
    finally:
        store.close()
    spans: dict[str, list[Span]] = defaultdict(list)
    rows = states.get("excluded")
    if rows is not None:
        for key, (after, until) in zip(rows.keys, rows.arrays["span"].tolist(), strict=True):
            spans[key].append((after, until))
    return events, dict(spans)
