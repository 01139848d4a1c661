"""All destinations of one service: hands them what the loop publishes, and tells `/metrics` how that goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from forecaster.domain import Incident
from serving.delivery import alertmanager
from serving.delivery.alertmanager import Pusher, Told
from serving.delivery.courier import Clocks, Courier, Outbox
from serving.delivery.notices import Message, message, notices
from serving.delivery.sending import Destination

_TICK = timedelta(milliseconds=1)  # between messages of one cycle: their order is that of their times, in the store too


class Delivery:
    """`tell` never waits for a network. Start and close it with the service."""

    def __init__(
        self,
        destinations: Sequence[Destination],
        alertmanager_url: str | None,
        external_url: str,
        outbox: Outbox,
        waiting: Iterable[Message] = (),
        clocks: Clocks | None = None,
    ) -> None:
        """`waiting`: messages of an earlier run; those of a destination that is gone are forgotten."""
        clocks = clocks or Clocks()
        self._external_url = external_url.rstrip("/")
        self.couriers = tuple(Courier(one, outbox, clocks) for one in destinations)
        self.pusher = None
        if alertmanager_url is not None:
            self.pusher = Pusher(alertmanager_url.rstrip("/"), Told(self._external_url), clocks)
        by_name = {one.to.name: one for one in self.couriers}
        kept: dict[str, list[Message]] = {name: [] for name in by_name}
        for one in waiting:
            if one.destination in kept:
                kept[one.destination].append(one)
            else:
                outbox.delete_message(one.id)
        for name, messages in kept.items():
            by_name[name].resume(messages)

    def tell(self, known: Mapping[str, Incident], incidents: Sequence[Incident], now: datetime) -> None:
        """`known`: incidents as they were told before; `incidents`: all that are open, and those that closed now."""
        for courier in self.couriers:
            for i, (event, incident) in enumerate(notices(known, incidents, courier.to.least_severity)):
                made = message(courier.to.name, event, incident, now, self._external_url)
                courier.add(replace(made, at=now + i * _TICK))
        if self.pusher is not None:
            self.pusher.take(incidents, now)

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """(destination, outcome) -> messages, or requests to Alertmanager."""
        found = {(one.to.name, outcome): n for one in self.couriers for outcome, n in one.counts.copy().items()}
        if self.pusher is not None:
            found |= {(alertmanager.NAME, outcome): n for outcome, n in self.pusher.counts.copy().items()}
        return found

    @property
    def waiting(self) -> dict[str, int]:
        return {one.to.name: one.waiting for one in self.couriers}

    @property
    def pushes(self) -> bool:
        """Whether incidents go to Alertmanager: the alert rules on our metrics then keep silent."""
        return self.pusher is not None

    def start(self) -> None:
        for one in self._all():
            one.start()

    def close(self) -> None:
        for one in self._all():
            one.close()

    def _all(self) -> tuple[Courier | Pusher, ...]:
        return (*self.couriers, *(() if self.pusher is None else (self.pusher,)))
