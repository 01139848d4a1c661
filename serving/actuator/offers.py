"""Recommendations as they come from the service, by long poll, and how old they are.

Age is measured on one clock at a time: what the service's own `Date` says less `madeAt` when an answer arrives, and our
monotonic clock from then on. Two hosts' clocks are never compared; that they differ is only said. A recommendation that
was seen before never gets younger, whatever the service's clock does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2 as httpx
import msgspec

from forecaster.errors import InputError
from serving.actuator import target
from serving.actuator.access import TRUSTING_NOBODY
from serving.actuator.policy import CAUTION, MOST_REPLICAS, Offer

POLL_SECONDS = 30.0  # the service answers after this at the latest
SPARE_SECONDS = 10.0
MOST_BYTES = 64 * 2**20
SKEW_SECONDS = 5.0  # clocks that differ by more are said to
LONGEST_VALIDITY = 86_400.0
FORGET_SECONDS = 86_400.0  # what the service has not spoken of for so long


class _Told(msgspec.Struct, rename="camel"):
    """What the service says; items stay text until they are read, one at a time."""

    items: list[msgspec.Raw]
    made_at: str | msgspec.UnsetType | None = msgspec.UNSET  # null: it has just started, and decided nothing yet


class ServiceError(Exception):
    """The service could not be asked, or its answer means nothing to us."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one poll brought. Times in monotonic seconds."""

    offers: Mapping[str, Offer]  # "namespace/hpa" ->
    made_at: Mapping[str, str]  # "namespace/hpa" -> RFC 3339 in UTC, as the service says
    malformed: Mapping[str, str]  # where -> what is wrong
    skew_seconds: float  # the service's clock less ours


class Service:
    """Polls one service. One thread."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str | None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        verify: Any = True,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"--url: {url!r} is not a URL: write http://forecaster:8080")
        self.url = url.rstrip("/")
        self._token, self._monotonic, self._wall = token, monotonic, wall
        if not self.url.startswith("https://"):
            verify = TRUSTING_NOBODY
        self._client = httpx.Client(trust_env=False, verify=verify, timeout=httpx.Timeout(POLL_SECONDS + SPARE_SECONDS))
        self._etag = ""
        self._items: list[msgspec.Raw] = []
        # "namespace/hpa" -> madeAt, expiry of the floor and of the target, last seen
        self._known: dict[str, tuple[str, float, float, float]] = {}
        self.repeated = False  # the last answer was what we knew already: the service does not wait for news

    def close(self) -> None:
        self._client.close()

    def poll(self, wait: bool = True) -> Answer:
        """The next decisions; at the latest after POLL_SECONDS the same ones, made anew. Raises ServiceError."""
        known = self._etag
        params = {"after": known} if known and wait else {}
        try:
            token = self._token()
        except InputError as error:
            raise ServiceError(str(error)) from None
        if token is not None and not (token.isascii() and token.isprintable()):  # the library would print it
            raise ServiceError("the token for the service cannot stand in a header: check FORECASTER_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        deadline = self._monotonic() + POLL_SECONDS + SPARE_SECONDS
        made_at: str | None = None
        try:
            with self._client.stream(
                "GET", f"{self.url}/api/v1/recommendations", params=params, headers=headers
            ) as response:
                arrived = self._monotonic()
                if response.status_code == 304:
                    made_at = response.headers.get("made-at")
                elif response.status_code != 200:
                    raise ServiceError(_refused(self.url, response.status_code))
                else:
                    self._items = self._body(response, deadline)
                    self._etag = response.headers.get("etag", "")
                self.repeated = response.status_code == 200 and self._etag in ("", params.get("after", ""))
                date = response.headers.get("date")
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:  # RuntimeError: closed
            raise ServiceError(f"{self.url}: no service answers: {error or type(error).__name__}") from error
        try:
            now = parsedate_to_datetime(date or "")
        except (ValueError, TypeError, OverflowError):
            raise ServiceError(f"{self.url}: the answer has no Date: ages cannot be told") from None
        if now.tzinfo is None:  # "-0000"
            now = now.replace(tzinfo=UTC)
        skew = (now - self._wall()).total_seconds()
        answer = read((msgspec.json.decode(one) for one in self._items), now, arrived, made_at)
        return replace(answer, offers=self._never_younger(answer, arrived), skew_seconds=skew)

    def _body(self, response: httpx.Response, deadline: float) -> list[msgspec.Raw]:
        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if self._monotonic() > deadline or size > MOST_BYTES:
                raise ServiceError(f"{self.url}: the answer does not end")
        try:
            told = msgspec.json.decode(b"".join(parts), type=_Told)
        except msgspec.DecodeError:  # also where it is JSON, and something else
            raise ServiceError(f"{self.url}: what answers there is not Forecaster: check --url") from None
        if told.made_at is None:  # its last word before the restart goes on to count for as long as it said
            raise ServiceError(f"{self.url}: it has just started and decided nothing yet")
        return told.items

    def _never_younger(self, answer: Answer, arrived: float) -> Mapping[str, Offer]:
        offers = {}
        for key, offer in answer.offers.items():
            made_at = answer.made_at[key]
            known = self._known.get(key)
            expires_at, target_until = offer.expires_at, offer.target_until
            # Not newer than what was seen before: its age goes on from there. The service's clock was set back, or an
            # old answer came late.
            if known is not None and made_at <= known[0]:
                made_at, expires_at, target_until = known[0], min(known[1], expires_at), min(known[2], target_until)
            self._known[key] = (made_at, expires_at, target_until, arrived)
            offers[key] = replace(offer, expires_at=expires_at, target_until=target_until)
        if len(self._known) > len(offers):
            self._known = {key: one for key, one in self._known.items() if arrived - one[3] < FORGET_SECONDS}
        return offers


def read(items: Iterable[Any], now: datetime, arrived: float, made_at: str | None = None) -> Answer:
    """Offers out of what the service says. `now`: its own time; `arrived`: our monotonic seconds at that time.

    `made_at` says that the same decisions were made anew then. What is malformed is left out and said.
    """
    offers: dict[str, Offer] = {}
    stamps: dict[str, str] = {}
    malformed: dict[str, str] = {}
    for place, item in enumerate(items):
        try:
            offer, stamp = _offer(item, now, arrived, made_at)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            malformed[_place(item, place)] = str(error) or type(error).__name__
            continue
        other = offers.get(offer.key)
        if other is not None:
            offer = _merged(other, offer)
        offers[offer.key] = offer
        stamps[offer.key] = max(stamp, stamps.get(offer.key, stamp))
    return Answer(offers, stamps, malformed, 0.0)


def _offer(item: Any, now: datetime, arrived: float, anew: str | None) -> tuple[Offer, str]:
    if not isinstance(item, dict):
        raise TypeError("not an object")
    namespace, hpa = _name(item, "namespace"), _name(item, "hpa")
    uid = item.get("hpaUid")
    if uid is not None and (not isinstance(uid, str) or not uid):
        raise ValueError(f"hpaUid {uid!r} is not a uid")
    floor = item.get("floor")
    if floor is not None and (isinstance(floor, bool) or not isinstance(floor, int) or not 0 < floor <= MOST_REPLICAS):
        raise ValueError(f"floor {floor!r} is not a number of replicas")
    mode = item["mode"]
    if not isinstance(mode, str):
        raise ValueError(f"mode {mode!r} is not a mode")
    validity = item["validForSeconds"]
    if isinstance(validity, bool) or not isinstance(validity, int | float):
        raise ValueError(f"validForSeconds {validity!r} is not a number")
    if not 0 <= validity <= LONGEST_VALIDITY:  # NaN is refused, too
        raise ValueError(f"validForSeconds {validity!r} is out of reason")
    made = _time(item["madeAt"])
    if anew is not None:
        made = max(made, _time(anew))
    age = max(0.0, (now - made).total_seconds())
    reactive = item.get("reactive")
    raised = item.get("raisedTarget")  # a service of before does not know it
    if raised is not None and (isinstance(raised, bool) or not isinstance(raised, int) or not 0 < raised <= 100):
        raise ValueError(f"raisedTarget {raised!r} is not per cent of a CPU request")
    reasons = item.get("reasons") or []
    codes = {one.get("code") for one in reasons if isinstance(one, dict)}
    offer = Offer(
        namespace=namespace,
        hpa=hpa,
        hpa_uid=uid,
        floor=floor,
        mode=mode,
        expires_at=arrived + float(validity) - age,
        paused="paused" in codes,
        reactive=reactive if isinstance(reactive, int) and not isinstance(reactive, bool) else None,
        words=_words(item),
        target=raised,
        target_until=arrived + min(float(validity), target.VALIDITY) - age,
    )
    return offer, made.astimezone(UTC).isoformat(timespec="microseconds")


def _merged(one: Offer, other: Offer) -> Offer:
    """Several recommendations for one HPA: the higher floor, the more cautious mode, the shorter life."""
    floors = [floor for floor in (one.floor, other.floor) if floor is not None]
    modes = [one.mode, other.mode]
    known = [mode for mode in modes if mode in CAUTION]
    return replace(
        one,
        hpa_uid=one.hpa_uid if one.hpa_uid == other.hpa_uid else None,
        floor=max(floors) if floors else None,
        mode=min(known, key=CAUTION.index) if len(known) == 2 else next(m for m in modes if m not in CAUTION),
        expires_at=min(one.expires_at, other.expires_at),
        paused=one.paused or other.paused,
        target=None if one.target is None or other.target is None else min(one.target, other.target),
        target_until=min(one.target_until, other.target_until),
        words="; ".join(dict.fromkeys(words for words in (one.words, other.words) if words)),
    )


def _name(item: Mapping[str, Any], key: str) -> str:
    value = item[key]
    if not isinstance(value, str) or not value[:1].isalnum() or len(value) > 253 or not set(value) <= _NAME:
        raise ValueError(f"{key} {value!r} is not a name in Kubernetes")
    return value


_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")


def _time(text: Any) -> datetime:
    found = datetime.fromisoformat(str(text))
    if found.tzinfo is None:
        raise ValueError(f"madeAt {text!r} has no time zone")
    return found


def _words(item: Mapping[str, Any]) -> str:
    """Why, in one line: the rule that bound, every candidate with its number, the reason codes."""
    candidates = [
        f"{one.get('name')} {one.get('replicas')}"
        for one in item.get("candidates") or []
        if isinstance(one, dict) and one.get("replicas") is not None
    ]
    codes = [str(one.get("code")) for one in item.get("reasons") or [] if isinstance(one, dict)]
    parts = [f"bound by {item.get('boundBy')}" if item.get("boundBy") else "", ", ".join(candidates), ", ".join(codes)]
    return "; ".join(part for part in parts if part)[:500]


def _place(item: Any, place: int) -> str:
    if isinstance(item, dict) and isinstance(item.get("hpa"), str):
        return f"{item.get('namespace')}/{item['hpa']}"[:200]
    return f"item {place}"


def _refused(url: str, status: int) -> str:
    if status in (401, 403):
        return f"{url}: status {status}: give a token of a viewer with --token-file"
    return f"{url}: status {status}"
