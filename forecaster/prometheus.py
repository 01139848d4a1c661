"""The only network of this package: PromQL through prometheus-api-client, decoded straight into arrays.

The library builds the requests; the session under it is ours, because the library's own defaults would hurt (checked
in 0.7.2): no time-out, three retries of a second each, queries in the URL even by POST, `warnings` dropped, no way to
stop a body that drips. Here each query has one deadline for connecting, waiting, reading and retrying. What no
deadline of ours reaches is the look-up of the host's name, which the system's resolver ends by itself.
"""

from __future__ import annotations

import base64
import http.client
import io
import random
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

import msgspec
import numpy as np
import requests
import urllib3
from prometheus_api_client import PrometheusConnect
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util.retry import Retry

from forecaster.domain import FloatArray, IntArray, Samples
from forecaster.errors import SourceError
from forecaster.reasons import ReasonCode

if TYPE_CHECKING:
    from forecaster.config import PrometheusConfig

MOST_POINTS = 10_000  # per series and query; Prometheus refuses more than 11,000
FEW_POINTS = 32  # per series: below it an array for each costs more than a Python number for each sample
LONGEST_URL = 2_000  # bytes of parameters; above it the query travels as a form
MOST_BYTES = 512 * 2**20  # of one answer
FIRST_WAIT = 0.25  # seconds before the first retry; doubles, jittered
LONGEST_WAIT = 5.0
SLOW = 2.0  # times its usual latency: Prometheus is slowed down
RECOVERED = 1.5
NOISE_SECONDS = 0.05  # added to both sides of that ratio: 2 ms against 1 ms says nothing
_MOST_LABEL_SETS = 200_000  # in the cache of decoded label sets
_TOO_MUCH = re.compile(
    r"too many samples|maximum resolution|too many points|maxSamples|maxPoints|answer is larger", re.I
)

Monotonic = Callable[[], float]
Sleep = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class SourceStats:
    """What the source has done since it was built."""

    queries: int  # HTTP requests sent, retries included
    retries: int
    seconds: float  # spent in them
    samples: int  # read
    received_bytes: int
    outcomes: Mapping[str, int]  # "ok", "partial", or the reason code of the failure -> queries
    slowed: bool
    latency_ratio: float  # newest latencies over the usual ones of the same queries


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What answers under the URL."""

    version: str | None  # None: it does not say (Thanos, Mimir and VictoriaMetrics may not)
    is_prometheus: bool  # it answers PromQL
    url: str  # without credentials


# --- wire types ------------------------------------------------------------------------------------------------------


class _Data(msgspec.Struct):
    resultType: str
    result: msgspec.Raw


class _Envelope(msgspec.Struct):
    status: str
    data: _Data | None = None
    errorType: str = ""
    error: str = ""
    warnings: list[str] | None = None


class _Vector(msgspec.Struct):
    metric: msgspec.Raw
    value: tuple[float, str] | None = None  # None: a native histogram


class _Matrix(msgspec.Struct):
    metric: msgspec.Raw
    values: msgspec.Raw = msgspec.Raw(b"[]")  # absent: a native histogram


class _ShortMatrix(msgspec.Struct):
    metric: msgspec.Raw
    values: list[tuple[float, str]] = []


class _BuildInfo(msgspec.Struct):
    version: str = ""


class _BuildInfoEnvelope(msgspec.Struct):
    status: str
    data: _BuildInfo | None = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_VECTOR = msgspec.json.Decoder(list[_Vector])
_MATRIX = msgspec.json.Decoder(list[_Matrix])
_SHORT_MATRIX = msgspec.json.Decoder(list[_ShortMatrix])
_SCALAR = msgspec.json.Decoder(tuple[float, str])
_LABELS = msgspec.json.Decoder(dict[str, str])
_PAIRS = msgspec.json.Decoder(list[tuple[float, str]])
_NUMBERS = msgspec.json.Decoder(list[float])


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """A complete 200, in the shape of what the library does with a requests.Response."""

    status_code: int
    content: bytes
    date: datetime | None

    @property
    def ok(self) -> bool:
        return True

    def json(self) -> Any:
        return {"data": {"result": self}}


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    data: _Data
    warnings: tuple[str, ...]
    date: datetime | None
    seconds: float


class _Failure(Exception):
    """One request failed; `retry_after` is None where trying again is of no use."""

    def __init__(self, error: SourceError, retry_after: float | None = None, busy: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        self.busy = busy


class _Rejected(_Failure):
    """401: worth one more try with a token read again."""


# --- the deadline, down to each read of the socket -------------------------------------------------------------------


class _Call(threading.local):
    """The deadline of the query that this thread is in."""

    deadline: float = float("inf")
    monotonic: Monotonic = staticmethod(time.monotonic)


_CALL = _Call()


def _left() -> float:
    left = _CALL.deadline - _CALL.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


class _DeadlineReader(io.RawIOBase):
    """Reads a socket under the deadline of the call: a body of one byte a second ends there too."""

    def __init__(self, raw: socket.SocketIO, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = cast(socket.SocketIO, self.fp.detach())
        self.fp = io.BufferedReader(_DeadlineReader(raw, sock), 65_536)


class _HttpConnection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _HttpsConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


_POOLS: dict[str, type[urllib3.HTTPConnectionPool]] = {"http": _HttpPool, "https": _HttpsPool}


class _Adapter(HTTPAdapter):
    """An adapter whose connections read under the call's deadline, and which never retries by itself."""

    def __init__(self) -> None:
        super().__init__(max_retries=Retry(0, read=False), pool_maxsize=16)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


# --- the session under the library -----------------------------------------------------------------------------------


class _Auth(AuthBase):
    """Credentials from files, read for each request: a rotated token counts at once, and none stays in memory."""

    def __init__(self, config: PrometheusConfig, userinfo: tuple[str, str] | None) -> None:
        self._token_file = config.bearer_token_file
        self._basic = config.basic_auth
        self._userinfo = userinfo

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        header = self._header()
        if header is not None:
            request.headers["Authorization"] = header
        return request

    def _header(self) -> str | None:
        if self._token_file is not None:
            return f"Bearer {_secret(self._token_file, 'bearerTokenFile')}"
        if self._basic is not None:
            password = _secret(self._basic.password_file, "basicAuth.passwordFile", spaces=True)
            return _basic(self._basic.username, password)
        return None if self._userinfo is None else _basic(*self._userinfo)


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def _secret(path: Path, name: str, spaces: bool = False) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is not text"
        raise _Failure(SourceError(f"cannot read {name} {path}: {words}", ReasonCode.UNAUTHORISED)) from None
    if not text or not text.isprintable() or (not spaces and (" " in text or not text.isascii())):
        # requests would name the bad header's value in its error: judge it before it gets there
        raise _Failure(SourceError(f"{name} {path} does not hold a token", ReasonCode.UNAUTHORISED))
    return text


class _Session(requests.Session):
    """Sends what the library asks for; answers only a whole 200, raises `_Failure` for all else."""

    def __init__(self, config: PrometheusConfig, userinfo: tuple[str, str] | None) -> None:
        super().__init__()
        self.headers.clear()
        self.headers.update({"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "forecaster"})
        self.headers.update(dict(config.headers))
        self.auth = _Auth(config, userinfo)
        self.verify = True if config.ca_file is None else str(config.ca_file)
        self.received_bytes = 0

    def request(self, method: str, url: str, params: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        kwargs = {name: value for name, value in kwargs.items() if name in ("headers", "verify", "cert")}
        if params is not None and len(urlencode(params)) > LONGEST_URL:
            method, kwargs["data"], params = "POST", params, None
        left = _left()
        response = super().request(
            method, url, params=params, timeout=(left, left), stream=True, allow_redirects=False, **kwargs
        )
        with response:
            body = self._body(response)
        date = _http_date(response.headers.get("Date"))
        if response.status_code == 200:
            return _Answer(200, body, date)
        raise _refused(response, body, date)

    def _body(self, response: requests.Response) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := response.raw.read(1 << 20, decode_content=True):
            _left()
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                text = f"the answer is larger than {MOST_BYTES // 2**20} MiB"
                raise _Failure(SourceError(text, ReasonCode.QUERY_ERROR))
        self.received_bytes += size
        return b"".join(parts)


def _refused(response: requests.Response, body: bytes, date: datetime | None) -> _Failure:
    """What an answer other than 200 means."""
    status = response.status_code
    try:
        envelope = _ENVELOPE.decode(body)
        words, kind = envelope.error, envelope.errorType
    except (msgspec.DecodeError, ValueError):
        words, kind = "", ""
    if status == 401:
        return _Rejected(SourceError("Prometheus refused our credentials (401)", ReasonCode.UNAUTHORISED))
    if status == 403:
        return _Failure(SourceError("Prometheus refused our credentials (403)", ReasonCode.UNAUTHORISED))
    if 300 <= status < 400:
        target = urlsplit(response.headers.get("Location", ""))
        where = f"{target.scheme}://{target.hostname}{target.path}" if target.hostname else target.path
        text = f"answered with a redirect to {where or 'nowhere'}, not Prometheus: URL or auth?"
        return _Failure(SourceError(text, ReasonCode.QUERY_ERROR))
    if kind == "timeout" or kind == "canceled":  # it did try: asking again at once would hurt it twice
        return _Failure(SourceError(f"Prometheus refused the query: {words}", ReasonCode.QUERY_ERROR), busy=True)
    if status in (429, 502, 503, 504):
        text = f"Prometheus is out of reach: it answered {status}" + (f" ({words})" if words else "")
        return _Failure(SourceError(text), _retry_after(response.headers.get("Retry-After"), date), busy=True)
    if words:
        return _Failure(SourceError(f"Prometheus refused the query: {words}", ReasonCode.QUERY_ERROR))
    return _Failure(_not_prometheus(body, status))


def _not_prometheus(body: bytes, status: int = 200) -> SourceError:
    start = body[:512].lstrip().lower()
    with_status = "" if status == 200 else f" with status {status}"
    if start.startswith(b"<"):
        text = f"answered HTML{with_status}, not Prometheus: URL or auth?"
    elif status != 200:
        text = f"answered{with_status}, not as Prometheus does: is the URL the root of its API?"
    elif start.startswith(b"{"):
        text = "the answer is cut short or not what Prometheus answers"
    else:
        text = "answered something that is not JSON, not Prometheus: URL or auth?"
    return SourceError(text, ReasonCode.QUERY_ERROR)


def _http_date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        parsed = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def _retry_after(text: str | None, date: datetime | None) -> float:
    """Seconds that the server asks us to wait, 0 where it does not say; a date counts from its own clock."""
    if not text:
        return 0.0
    if text.strip().isdigit():
        return float(text)
    until = _http_date(text)
    return 0.0 if until is None or date is None else max(0.0, (until - date).total_seconds())


# --- how many at once, and whether Prometheus is slow ----------------------------------------------------------------


class _Gate:
    """At most so many queries at once, one while Prometheus is slowed down."""

    def __init__(self, most: int, monotonic: Monotonic) -> None:
        self._most, self._monotonic = max(1, most), monotonic
        self._inside = 0
        self._changed = threading.Condition()
        self.narrow = False

    @contextmanager
    def enter(self, deadline: float) -> Iterator[None]:
        with self._changed:
            while self._inside >= (1 if self.narrow else self._most):
                left = deadline - self._monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise _Failure(SourceError("Prometheus is out of reach: other queries took all of the time"))
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()


@dataclass(slots=True)
class _Pace:
    """Latency of each repeated query against its own usual one."""

    ratio: float = 1.0  # smoothed
    slowed: bool = False
    usual: dict[tuple[str, int], float] = field(default_factory=dict)  # (query, points) -> seconds

    def took(self, query: str, points: int, seconds: float) -> None:
        key = (query, points)
        usual = self.usual.get(key)
        if usual is None:
            if len(self.usual) < 20_000:
                self.usual[key] = seconds
            return
        self._judge((seconds + NOISE_SECONDS) / (usual + NOISE_SECONDS))
        # What is usual follows slowly, and upwards slower still: a lasting change is accepted within an hour.
        self.usual[key] = usual + (0.1 if seconds < usual else 0.01) * (seconds - usual)

    def refused(self) -> None:
        """It said that it is too busy, or did not answer in time."""
        self._judge(2 * SLOW)

    def _judge(self, ratio: float) -> None:
        self.ratio += 0.3 * (min(ratio, 10.0) - self.ratio)
        self.slowed = self.ratio > (RECOVERED if self.slowed else SLOW)


# --- the source ------------------------------------------------------------------------------------------------------


class PrometheusSource:
    """A MetricSource over HTTP. Safe to use from several threads."""

    def __init__(
        self,
        config: PrometheusConfig,
        monotonic: Monotonic = time.monotonic,
        sleep: Sleep = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        url, userinfo = _without_userinfo(config.url)
        self.url = url
        self._timeout = config.timeout.total_seconds()
        self._monotonic, self._sleep, self._jitter = monotonic, sleep, jitter
        self._session = _Session(config, userinfo)
        self._library = PrometheusConnect(url=url, session=self._session, retry=Retry(0), timeout=None)
        self._session.mount(url, _Adapter())  # after the library, which mounts its own under the same prefix
        self._gate = _Gate(config.max_concurrency, monotonic)
        self._pace = _Pace()
        self._lock = threading.Lock()
        self._queries = self._retries = self._samples = 0
        self._seconds = 0.0
        self._outcomes: Counter[str] = Counter()
        self._columns: dict[str, int] = {}  # query -> points that its answers may have, where it was refused for more
        self._label_sets: dict[bytes, Mapping[str, str]] = {}

    def close(self) -> None:
        """Closes the connections; a later query opens new ones."""
        self._session.close()

    @property
    def slowed(self) -> bool:
        """Prometheus takes twice its usual time, or says that it is busy: optional queries should wait."""
        return self._pace.slowed

    def stats(self) -> SourceStats:
        """A snapshot of the counters."""
        with self._lock:
            return SourceStats(
                queries=self._queries,
                retries=self._retries,
                seconds=self._seconds,
                samples=self._samples,
                received_bytes=self._session.received_bytes,
                outcomes=dict(self._outcomes),
                slowed=self._pace.slowed,
                latency_ratio=self._pace.ratio,
            )

    def instant(self, query: str, at: datetime) -> Samples:
        """One value per series at `at` (aware): `values` has shape (series, 1)."""
        moment = _seconds(at)

        def ask(left: float) -> Any:
            return self._library.custom_query(query, params={"time": f"{moment:.3f}", "timeout": _duration(left)})

        decoded = self._counted(query, 1, ask)
        with self._decoding(decoded):
            labels, values = self._vector(decoded.data)
        times = np.array([int(moment)], dtype=np.int64)
        self._count_samples(values.size)
        return _samples(labels, times, values, decoded)

    def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> Samples:
        """Values at start, start + step, … up to and including end; all three whole multiples of the step.

        Asked for in as many pieces as Prometheus' limits ask for; a piece begins one step after the one before it.
        """
        every = int(step.total_seconds())
        first, last = int(_seconds(start)), int(_seconds(end))
        if every < 1 or step != timedelta(seconds=every) or first % every or last % every:
            raise ValueError(f"{start} to {end} does not lie on a grid of {step}")
        times = np.arange(first, last + 1, every, dtype=np.int64)
        pieces: list[Samples] = []
        at = 0
        while at < len(times):
            columns = min(self._columns.get(query, MOST_POINTS), MOST_POINTS)
            piece = times[at : at + columns]
            try:
                pieces.append(self._piece(query, piece, every))
            except SourceError as error:
                if error.reason is not ReasonCode.QUERY_ERROR or len(piece) == 1 or not _TOO_MUCH.search(str(error)):
                    raise
                self._columns[query] = (len(piece) + 1) // 2
                continue
            at += len(piece)
        return _joined(pieces, times)

    def server_info(self) -> ServerInfo:
        """Which server answers. Raises SourceError where none does."""

        def ask(left: float) -> Any:
            return self._session.request("GET", f"{self.url}/api/v1/status/buildinfo").content

        try:
            body = self._send(ask)
            built = msgspec.json.decode(body, type=_BuildInfoEnvelope).data
            if built is not None and built.version:
                return ServerInfo(built.version, True, self.url)
        except SourceError as error:
            if error.reason is not ReasonCode.QUERY_ERROR:
                raise
        except (msgspec.DecodeError, ValueError):
            pass
        answer = self.instant("vector(1)", datetime.fromtimestamp(0, UTC))  # not all that speak PromQL tell a version
        return ServerInfo(None, len(answer.labels) == 1, self.url)

    # --- one query ---

    def _piece(self, query: str, times: IntArray, every: int) -> Samples:
        start, end = (datetime.fromtimestamp(int(t), UTC) for t in (times[0], times[-1]))

        def ask(left: float) -> Any:
            params = {"timeout": _duration(left)}
            return self._library.custom_query_range(query, start, end, str(every), params=params)

        decoded = self._counted(query, len(times), ask)
        with self._decoding(decoded):
            if decoded.data.resultType != "matrix":
                raise SourceError(f"Prometheus answered a {decoded.data.resultType}", ReasonCode.QUERY_ERROR)
            if len(times) <= FEW_POINTS:
                labels, values, samples = self._short_matrix(decoded.data.result, times, every)
            else:
                series = _MATRIX.decode(decoded.data.result)
                values = np.full((len(series), len(times)), np.nan)
                samples = sum(_fill(values[i], one.values, int(times[0]), every) for i, one in enumerate(series))
                labels = tuple(self._labels(one.metric) for one in series)
        self._count_samples(samples)
        return _samples(labels, times, values, decoded)

    def _counted(self, query: str, points: int, ask: Callable[[float], Any]) -> _Decoded:
        """The answer to one query, decoded as far as its envelope; its outcome and time are counted."""
        began = self._monotonic()
        try:
            answer: _Answer = self._send(ask)
            try:
                envelope = _ENVELOPE.decode(answer.content)
            except (msgspec.DecodeError, ValueError):
                raise SourceError(self._at(_not_prometheus(answer.content)), ReasonCode.QUERY_ERROR) from None
            if envelope.status != "success" or envelope.data is None:
                text = f"Prometheus refused the query: {envelope.error or 'no data in its answer'}"
                raise SourceError(text, ReasonCode.QUERY_ERROR)
        except SourceError as error:
            with self._lock:
                self._outcomes[error.reason.value] += 1
            raise
        seconds = self._monotonic() - began
        warnings = tuple(envelope.warnings or ())
        with self._lock:
            self._outcomes["partial" if warnings else "ok"] += 1
            if points <= 10:  # those that are asked again and again; back-fill differs too much in size
                self._pace.took(query, points, seconds)
                self._gate.narrow = self._pace.slowed
        return _Decoded(envelope.data, warnings, answer.date, seconds)

    def _send(self, ask: Callable[[float], Any]) -> Any:
        """Sends until there is an answer, nothing is to be gained, or the deadline would pass. Raises SourceError."""
        deadline = self._monotonic() + self._timeout
        wait = FIRST_WAIT
        rejected = False
        while True:
            try:
                with self._gate.enter(deadline):
                    return self._once(ask, deadline)
            except _Rejected as failure:
                if rejected:
                    raise SourceError(self._at(failure.error), failure.error.reason) from None
                rejected, pause = True, 0.0  # the token file is read again
            except _Failure as failure:
                if failure.busy:
                    with self._lock:
                        self._pace.refused()
                        self._gate.narrow = self._pace.slowed
                pause = 0.0 if failure.retry_after is None else max(failure.retry_after, wait * (0.5 + self._jitter()))
                if failure.retry_after is None or self._monotonic() + pause >= deadline:
                    raise SourceError(self._at(failure.error), failure.error.reason) from None
                wait = min(2 * wait, LONGEST_WAIT)
            with self._lock:
                self._retries += 1
            if pause:
                self._sleep(pause)

    def _once(self, ask: Callable[[float], Any], deadline: float) -> Any:
        began = self._monotonic()
        _CALL.deadline, _CALL.monotonic = deadline, self._monotonic
        try:
            return ask(max(0.1, deadline - began))
        except _Failure:
            raise
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, requests.RequestException) as error:
            raise self._unreached(error) from None
        finally:
            _CALL.deadline = float("inf")
            with self._lock:
                self._queries += 1
                self._seconds += self._monotonic() - began

    def _unreached(self, error: BaseException) -> _Failure:
        """What an exception below HTTP means. Its own text is not passed on: it can hold URL and headers."""
        chain = list(_causes(error))
        for cause in chain:
            if isinstance(cause, ssl.SSLCertVerificationError):
                text = f"Prometheus' certificate did not verify: {cause.verify_message}"
                return _Failure(SourceError(text, ReasonCode.UNAUTHORISED))
        timed_out = (TimeoutError, urllib3.exceptions.TimeoutError, requests.Timeout)
        refused = any(isinstance(cause, urllib3.exceptions.NewConnectionError) for cause in chain)
        if any(isinstance(cause, timed_out) for cause in chain):
            text = f"Prometheus is out of reach: no complete answer within {self._timeout:.3g} s"
            return _Failure(SourceError(text), busy=True)
        for cause in chain:
            if isinstance(cause, ConnectionRefusedError):
                return _Failure(SourceError("Prometheus is out of reach: connection refused"), 0.0)
            if isinstance(cause, (socket.gaierror, urllib3.exceptions.NameResolutionError)):
                return _Failure(SourceError("Prometheus is out of reach: its host name is not known"), 0.0)
            if isinstance(cause, (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)):
                return _Failure(SourceError("the answer is cut short", ReasonCode.QUERY_ERROR), 0.0)
        if any(isinstance(cause, (ssl.SSLError, requests.exceptions.SSLError)) for cause in chain):
            text = "TLS with Prometheus failed: is it https, and is its certificate right?"
            return _Failure(SourceError(text, ReasonCode.UNAUTHORISED))
        if isinstance(error, OSError) and "CA certificate" in str(error):
            return _Failure(SourceError(f"cannot read caFile {self._session.verify}", ReasonCode.UNAUTHORISED))
        what = "no connection" if refused else "the connection was lost"
        return _Failure(SourceError(f"Prometheus is out of reach: {what}"), 0.0)

    def _at(self, error: SourceError) -> str:
        """The error's text with the URL after its first words."""
        text = str(error)
        head = "Prometheus is out of reach"
        if text.startswith(head):
            return f"{head} at {self.url}{text[len(head) :]}"
        return f"{self.url}: {text}" if error.reason is not ReasonCode.QUERY_ERROR or "URL" in text else text

    # --- decoding ---

    @contextmanager
    def _decoding(self, decoded: _Decoded) -> Iterator[None]:
        try:
            yield
        except (msgspec.DecodeError, ValueError) as error:
            text = f"the {decoded.data.resultType} that Prometheus answered cannot be read: {error}"
            raise SourceError(text, ReasonCode.QUERY_ERROR) from error

    def _labels(self, raw: msgspec.Raw) -> Mapping[str, str]:
        """The label set of these bytes; the same object for the same bytes, query after query."""
        key = bytes(raw)
        found = self._label_sets.get(key)
        if found is None:
            if len(self._label_sets) >= _MOST_LABEL_SETS:
                self._label_sets.clear()
            found = self._label_sets[key] = _LABELS.decode(key)
        return found

    def _vector(self, data: _Data) -> tuple[tuple[Mapping[str, str], ...], FloatArray]:
        """Label sets (series,) and values (series, 1) of an instant answer."""
        if data.resultType == "scalar":
            return ({},), _finite(np.array([[float(_SCALAR.decode(data.result)[1])]]))
        if data.resultType != "vector":
            text = f"the expression gives a {data.resultType}, not one value per series"
            raise SourceError(text, ReasonCode.QUERY_ERROR)
        series = [one for one in _VECTOR.decode(data.result) if one.value is not None]
        labels = tuple(self._labels(one.metric) for one in series)
        values = np.fromiter((float(one.value[1]) for one in series if one.value), dtype=np.float64, count=len(series))
        return labels, _finite(values.reshape(-1, 1))

    def _short_matrix(
        self, result: msgspec.Raw, times: IntArray, every: int
    ) -> tuple[tuple[Mapping[str, str], ...], FloatArray, int]:
        """Labels, values (series, time) and number of samples where series are short: all of them at once."""
        series = _SHORT_MATRIX.decode(result)
        labels = tuple(self._labels(one.metric) for one in series)
        pairs = [pair for one in series for pair in one.values]
        lengths = np.fromiter((len(one.values) for one in series), dtype=np.int64, count=len(series))
        stamps = np.fromiter((pair[0] for pair in pairs), dtype=np.float64, count=len(pairs))
        numbers = np.fromiter((float(pair[1]) for pair in pairs), dtype=np.float64, count=len(pairs))
        values = np.full((len(series), len(times)), np.nan)
        columns = _columns(stamps, int(times[0]), every, len(times))
        values[np.repeat(np.arange(len(series)), lengths), columns] = _finite(numbers)
        return labels, values, len(pairs)

    def _count_samples(self, samples: int) -> None:
        with self._lock:
            self._samples += samples


def _without_userinfo(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL as it may be shown, and the user and password that stood in it."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url.rstrip("/"), None
    shown = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return shown.rstrip("/"), (unquote(parts.username or ""), unquote(parts.password or ""))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it wraps, however requests and urllib3 wrapped it."""
    todo: list[object] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _seconds(moment: datetime) -> float:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.timestamp()


def _duration(seconds: float) -> str:
    return f"{max(1, int(seconds * 1000))}ms"


def _finite(values: FloatArray) -> FloatArray:
    """Infinities are no samples either: a division by zero, or a number that no float holds."""
    values[~np.isfinite(values)] = np.nan
    return values


def _fill(row: FloatArray, raw: msgspec.Raw, first: int, every: int) -> int:
    """Writes a series' [[time, "value"], …] into its row of the grid; returns how many samples there were.

    Without brackets and quotes it is one flat list of numbers, which needs no Python object for each pair and string:
    a third of the time. What is not a JSON number (NaN, Inf, 1e400) takes the longer way.
    """
    pairs = bytes(raw)
    try:
        flat = np.array(_NUMBERS.decode(b"[" + pairs.translate(None, b'[]"') + b"]"), dtype=np.float64)
        times, values = flat[0::2], flat[1::2]
    except (msgspec.DecodeError, ValueError):
        slow = _PAIRS.decode(pairs)
        times = np.fromiter((t for t, _ in slow), dtype=np.float64, count=len(slow))
        values = np.fromiter((float(v) for _, v in slow), dtype=np.float64, count=len(slow))
    if not len(times):
        return 0
    if len(times) != len(values):
        raise ValueError("it holds a time without a value")
    row[_columns(times, first, every, len(row))] = _finite(values)
    return len(times)


def _columns(times: FloatArray, first: int, every: int, count: int) -> IntArray:
    """Places of the times on a grid of `count` points. ValueError where one is not on it."""
    place = (times - first) / every
    columns = np.rint(place).astype(np.int64)
    if len(times) and (columns.min() < 0 or columns.max() >= count or np.abs(place - columns).max() > 0.01):
        raise ValueError("its times are not the ones that were asked for")
    return columns


def _samples(labels: tuple[Mapping[str, str], ...], times: IntArray, values: FloatArray, decoded: _Decoded) -> Samples:
    return Samples(
        labels=labels,
        times=times,
        values=values,
        partial=bool(decoded.warnings),
        warnings=decoded.warnings,
        server_time=decoded.date,
        query_seconds=decoded.seconds,
    )


def _joined(pieces: Sequence[Samples], times: IntArray) -> Samples:
    """Pieces of one range, side by side; a series that a piece does not have is NaN there."""
    if len(pieces) == 1:
        return pieces[0]
    row_of: dict[tuple[tuple[str, str], ...], int] = {}
    labels: list[Mapping[str, str]] = []
    rows: list[list[int]] = []
    for piece in pieces:
        rows.append([])
        for one in piece.labels:
            row = row_of.setdefault(tuple(sorted(one.items())), len(labels))
            if row == len(labels):
                labels.append(one)
            rows[-1].append(row)
    values = np.full((len(labels), len(times)), np.nan)
    at = 0
    for piece, places in zip(pieces, rows, strict=True):
        width = len(piece.times)
        if places:
            values[places, at : at + width] = piece.values
        at += width
    return Samples(
        labels=tuple(labels),
        times=times,
        values=values,
        partial=any(piece.partial for piece in pieces),
        warnings=tuple(dict.fromkeys(text for piece in pieces for text in piece.warnings)),
        server_time=pieces[-1].server_time if pieces else None,
        query_seconds=sum(piece.query_seconds for piece in pieces),
    )
