"""The reader under the faults of Prometheus and of its data: what each row and the whole reading say."""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from forecaster.domain import FloatArray, IntArray, WorkloadSpec
from forecaster.errors import SourceError
from forecaster.history import History, Reading
from forecaster.reasons import ReasonCode
from tests.fake_prometheus import Asked, FakePrometheus, Reply, grid, matrix, vector
from tests.fakes import FakeSource, constant, daily
from tests.faultproxy import FaultProxy
from tests.source import Clock, source_of

NOW = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
INTERVAL = timedelta(seconds=15)
SHORT = timedelta(seconds=0.4)  # a deadline that tests can afford to see pass
TEMPLATE = "sum by (app) (b)"


def history(*specs: WorkloadSpec) -> History:
    return History(specs or [WorkloadSpec("w", "sum(a)")], MINUTE, timedelta(days=4))


def template(max_series: int = 100) -> WorkloadSpec:
    return WorkloadSpec("{app}", TEMPLATE, for_each=("app",), max_series=max_series)


def apps(*names: str) -> FakeSource:
    return FakeSource({TEMPLATE: [({"app": name}, daily(10)) for name in names]})


def codes(reading: Reading) -> list[list[str]]:
    return [[reason.code.value for reason in row] for row in reading.reasons]


def answering(value: float = 5.0) -> object:
    """A fake's answer: one constant series, for any query."""

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("query_range"):
            return matrix(({}, [(t, value) for t in grid(asked)]))
        return vector(({}, value))

    return answer


# --- P: Prometheus ---------------------------------------------------------------------------------------------------


def test_p1_refused_connections_keep_the_history_and_are_said(
    fake_prometheus: FakePrometheus, fault_proxy: FaultProxy
) -> None:
    fake_prometheus.answer = answering()  # type: ignore[assignment]
    source = source_of(fault_proxy.url, timeout=SHORT)
    one = history()
    now = datetime.now(UTC).replace(microsecond=0)
    before = one.read(source, now)
    assert codes(before) == [[]]
    fault_proxy.set("refuse")
    lost = one.read(source, now + INTERVAL)
    assert codes(lost) == [["stale_data"]]
    assert f"Prometheus is out of reach at {fault_proxy.url}" in lost.reasons[0][0].detail
    assert np.isnan(lost.newest[0])
    assert lost.data_through[0] == before.data_through[0]
    assert np.isfinite(lost.context.fine.values).sum() >= np.isfinite(before.context.fine.values).sum() - 1
    fault_proxy.set("pass")
    assert codes(one.read(source, now + 2 * INTERVAL)) == [[]]


@pytest.mark.parametrize("fault", ["stall", "stall_after_headers", "throttle"])
def test_p2_a_hanging_prometheus_is_cut_at_the_total_deadline(
    fake_prometheus: FakePrometheus, fault_proxy: FaultProxy, fault: str
) -> None:
    fault_proxy.set(fault, rate=200.0)  # the headers alone take a second, and each read of the socket succeeds
    source = source_of(fault_proxy.url, timeout=SHORT)
    with pytest.raises(SourceError, match="out of reach") as caught:
        source.instant("x", NOW)
    assert caught.value.reason is ReasonCode.STALE_DATA
    assert source.stats().seconds < 20  # of the 60 that a time-out per read would allow


def test_p2_one_query_that_hangs_costs_one_deadline_and_is_asked_last_the_next_time() -> None:
    class Hanging(FakeSource):
        def instant(self, query: str, at: datetime) -> object:  # type: ignore[override]
            if query == "hangs":
                self.asked.append(query)
                raise SourceError("Prometheus is out of reach: no complete answer within 30 s")
            return super().instant(query, at)

    source = Hanging({"good": [({}, daily(5))]})
    one = history(WorkloadSpec("bad", "hangs"), WorkloadSpec("good", "good"))
    first = one.read(source, NOW)
    assert codes(first) == [["stale_data"], ["stale_data"]]
    assert source.asked == ["hangs"]
    second = one.read(source, NOW + INTERVAL)
    assert codes(second) == [["stale_data"], []]
    assert np.isfinite(second.context.fine.values[1]).all()  # the back-fill of the others goes on
    assert source.asked[1] == "good" and source.asked[-1] == "hangs"


def test_p2_resets_are_tried_again_within_the_deadline(
    fake_prometheus: FakePrometheus, fault_proxy: FaultProxy
) -> None:
    fault_proxy.set("reset")
    clock = Clock()
    with pytest.raises(SourceError, match="connection was lost"):
        source_of(fault_proxy.url, clock).instant("x", NOW)
    assert len(clock.slept) > 3 and sum(clock.slept) < 30


def test_p4_retry_after_is_honoured_and_the_reading_recovers(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = answering()  # type: ignore[assignment]
    fake_prometheus.replies = [Reply(b"", 503, {"Retry-After": "3"})]
    clock = Clock()
    reading = history().read(source_of(fake_prometheus.url, clock), datetime.now(UTC))
    assert clock.slept == [3.0]
    assert codes(reading) == [[]]


def test_p5_a_bad_query_hurts_its_own_workload_only() -> None:
    class Refusing(FakeSource):
        def instant(self, query: str, at: datetime) -> object:  # type: ignore[override]
            if query == "bad":
                raise SourceError("Prometheus refused the query: parse error", ReasonCode.QUERY_ERROR)
            return super().instant(query, at)

    reading = history(WorkloadSpec("bad", "bad"), WorkloadSpec("good", "good")).read(
        Refusing({"good": [({}, daily(5))]}), NOW
    )
    assert codes(reading) == [["query_error"], []]
    assert "parse error" in reading.reasons[0][0].detail


def test_p6_partial_answers_are_shown_but_masked_until_read_whole() -> None:
    source = FakeSource({"sum(a)": [({}, daily(5))]})
    one = history()
    one.read(source, NOW)
    source.partial = True
    partial = one.read(source, NOW + MINUTE)
    assert codes(partial) == [["partial_data"]]
    assert np.isfinite(partial.newest[0])
    assert partial.context.masked is not None and partial.context.masked[0, -1]
    assert partial.context.coarse_masked is None  # no coarse column has ended since
    source.partial = False
    whole = one.read(source, NOW + 2 * MINUTE)
    assert codes(whole) == [[]]
    assert whole.context.masked is None  # the overlap was read again


def test_p7_a_login_page_is_one_line(fake_prometheus: FakePrometheus, fault_proxy: FaultProxy) -> None:
    page = b"<!DOCTYPE html><html>please log in</html>"
    fault_proxy.set("replace", answer=b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))
    reading = history().read(source_of(fault_proxy.url, Clock()), NOW)
    assert codes(reading) == [["query_error"]]
    assert reading.reasons[0][0].detail.endswith("answered HTML, not Prometheus: URL or auth?")


def test_p7_a_body_shorter_than_promised_is_cut_short(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: Reply(b'{"status":"success"', length=4000)
    with pytest.raises(SourceError, match="cut short") as caught:
        source_of(fake_prometheus.url, Clock()).instant("x", NOW)
    assert caught.value.reason is ReasonCode.QUERY_ERROR


def test_p8_a_rotated_token_is_read_again_on_401(fake_prometheus: FakePrometheus, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    def answer(asked: Asked) -> Reply:
        if asked.headers["authorization"] == "Bearer new":
            return vector(({}, 1))
        token.write_text("new")  # rotated while the old one was under way
        return Reply(b"", 401)

    fake_prometheus.answer = answer
    source = source_of(fake_prometheus.url, bearer_token_file=token)
    assert source.instant("x", NOW).values.tolist() == [[1.0]]


def test_p8_wrong_credentials_are_unauthorised_for_all_rows(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: Reply(b"", 403)
    source = source_of(fake_prometheus.url)
    reading = history(WorkloadSpec("a", "a"), WorkloadSpec("b", "b")).read(source, NOW)
    assert codes(reading) == [["unauthorised"], ["unauthorised"]]
    assert [notice.code for notice in reading.notices] == [ReasonCode.UNAUTHORISED]
    assert len(fake_prometheus.asked) == 1  # the second would be refused as well


def certificate(folder: Path, name: str, expired: bool = False) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for `name`, and the CA file that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    today = datetime.now(UTC)
    begins = today - dt.timedelta(days=30)
    ends = today - dt.timedelta(days=1) if expired else today + dt.timedelta(days=30)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([_alternative(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    return context, pem


def _alternative(name: str) -> x509.GeneralName:
    import ipaddress

    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


@pytest.fixture
def quiet_tls_server() -> Iterator[None]:
    """A refused handshake is the server's error too; it needs no traceback in the log."""
    import socketserver

    before = socketserver.BaseServer.handle_error
    socketserver.BaseServer.handle_error = lambda *args: None  # type: ignore[method-assign]
    yield
    socketserver.BaseServer.handle_error = before  # type: ignore[method-assign]


@pytest.mark.usefixtures("quiet_tls_server")
def test_p8_a_custom_ca_is_verified_against(tmp_path: Path) -> None:
    context, pem = certificate(tmp_path, "127.0.0.1")
    with FakePrometheus(tls=context) as fake:
        assert source_of(fake.url, ca_file=pem).instant("x", NOW).labels == ()


@pytest.mark.usefixtures("quiet_tls_server")
@pytest.mark.parametrize(
    ("name", "expired", "trusted", "words"),
    [
        ("127.0.0.1", True, True, "expired"),
        ("127.0.0.1", False, False, "self-signed"),
        ("prometheus.example", False, True, "IP address mismatch"),
    ],
)
def test_p8_a_bad_certificate_is_unauthorised_and_never_ignored(
    tmp_path: Path, name: str, expired: bool, trusted: bool, words: str
) -> None:
    context, pem = certificate(tmp_path, name, expired)
    with FakePrometheus(tls=context) as fake:
        with pytest.raises(SourceError, match=words) as caught:
            source_of(fake.url, Clock(), ca_file=pem if trusted else None).instant("x", NOW)
        assert caught.value.reason is ReasonCode.UNAUTHORISED
        assert not fake.asked


@pytest.mark.usefixtures("quiet_tls_server")
def test_p8_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    context, _ = certificate(tmp_path, "127.0.0.1")
    with FakePrometheus(tls=context) as fake, pytest.raises(SourceError, match=r"caFile .*absent") as caught:
        source_of(fake.url, Clock(), ca_file=tmp_path / "absent").instant("x", NOW)
    assert caught.value.reason is ReasonCode.UNAUTHORISED


def test_p10_a_series_that_vanishes_is_gone_and_the_others_are_unharmed() -> None:
    source = apps("a", "b")
    one = history(template())
    one.read(source, NOW)
    source.series[TEMPLATE].pop(0)
    soon = one.read(source, NOW + 2 * MINUTE)
    assert codes(soon) == [[], []] and np.isnan(soon.newest[0])  # a scrape may be late
    later = one.read(source, NOW + 5 * MINUTE)
    assert codes(later) == [["series_gone"], []]
    assert [work.name for work in later.workloads] == ["a", "b"]


def test_p10_a_vanished_row_is_dropped_after_a_day_and_the_others_keep_their_history() -> None:
    source = apps("a", "b", "c")
    one = history(template())
    one.read(source, NOW)
    source.series[TEMPLATE].pop(1)
    one.read(source, NOW + timedelta(hours=23))
    assert len(one.read(source, NOW + timedelta(hours=23, minutes=1)).workloads) == 3
    reading = one.read(source, NOW + timedelta(hours=25))
    assert [work.name for work in reading.workloads] == ["a", "c"]
    assert [key.workload for key in reading.context.fine.keys] == ["a", "c"]
    assert np.isfinite(reading.context.fine.values).all() and np.isfinite(reading.newest).all()


def test_p10_a_label_that_comes_gets_a_row_and_its_past() -> None:
    source = apps("b")
    one = history(template())
    one.read(source, NOW)
    source.series[TEMPLATE].insert(0, ({"app": "a"}, daily(7)))
    reading = one.read(source, NOW + MINUTE)
    assert [key.workload for key in reading.context.fine.keys] == ["b", "a"]  # rows keep their order
    assert np.isfinite(reading.context.fine.values[1, -1])
    reading = one.read(source, NOW + timedelta(hours=1, minutes=1))  # the template is read again once an hour at most
    assert np.isfinite(reading.context.fine.values).all() and np.isfinite(reading.context.coarse.values).all()


def test_p11_a_template_that_explodes_is_cut_in_order_of_labels() -> None:
    source = apps(*(f"a{i:02}" for i in range(5)))
    one = history(template(max_series=7))
    one.read(source, NOW)
    source.series[TEMPLATE] = [({"app": f"a{i:02}"}, daily(10)) for i in reversed(range(50))]
    reading = one.read(source, NOW + MINUTE)
    assert [work.name for work in reading.workloads] == [f"a{i:02}" for i in range(7)]
    assert [notice.code for notice in reading.notices] == [ReasonCode.TOO_MANY_SERIES]
    assert "50 series, 7 are allowed" in reading.notices[0].detail
    assert np.isfinite(reading.newest).all()


def test_p11_a_plain_workload_with_several_series_has_no_value() -> None:
    source = FakeSource({"sum(a)": [({"pod": "a"}, daily(5)), ({"pod": "b"}, daily(5))]})
    reading = history().read(source, NOW)
    assert codes(reading) == [["too_many_series"]]
    assert np.isnan(reading.newest[0]) and np.isnan(reading.context.fine.values).all()


def test_p12_an_empty_prometheus_is_neither_zero_nor_the_end_of_a_series() -> None:
    source = apps("a", "b")
    full = source.series
    one = history(template())
    before = one.read(source, NOW)
    source.series = {}
    empty = one.read(source, NOW + MINUTE)
    assert np.isnan(empty.newest).all() and np.isnan(empty.context.fine.values[:, -1]).all()
    assert len(empty.workloads) == 2
    assert codes(empty) == [[], []]
    stale = one.read(source, NOW + 4 * MINUTE)
    assert codes(stale) == [["stale_data"], ["stale_data"]]
    source.series = full
    after = one.read(source, NOW + 6 * MINUTE)
    assert codes(after) == [[], []]
    assert np.isfinite(after.context.fine.values).all()  # Prometheus had it all: the gap was read
    np.testing.assert_array_equal(after.context.fine.values[:, :-7], before.context.fine.values[:, 6:-1])


def test_p13_two_replicas_with_different_gaps_do_not_rewrite_each_other() -> None:
    base = daily(10)

    def replica(which: int) -> FakeSource:
        def curve(times: IntArray) -> FloatArray:
            values = base(times) * (1.0 + 0.001 * which)
            values[(times // 60) % 7 == which] = np.nan
            return values

        return FakeSource({"sum(a)": [({}, curve)]})

    replicas = [replica(0), replica(1)]
    one = history()
    one.read(replicas[0], NOW)
    earlier = np.array(one.read(replicas[1], NOW + MINUTE).context.fine.values)
    for minute in range(2, 12):
        values = np.array(one.read(replicas[minute % 2], NOW + minute * MINUTE).context.fine.values)
        kept, before = values[0, :-4], earlier[0, 1:-3]
        known = np.isfinite(before)
        np.testing.assert_array_equal(kept[known], before[known])
        earlier = values
    assert np.isfinite(earlier[0, -9:-1]).all()  # what one replica lacks the other had


def test_p14_identical_expressions_are_asked_once_and_a_template_is_one_query() -> None:
    source = apps(*(f"a{i}" for i in range(30)))
    source.series["sum(a)"] = [({}, daily(5))]
    one = history(template(), WorkloadSpec("x", "sum(a)"), WorkloadSpec("y", "sum(a)"))
    one.read(source, NOW)
    source.asked.clear()
    one.read(source, NOW + INTERVAL)
    assert sorted(source.asked) == ["sum by (app) (b)", "sum(a)"]
    source.asked.clear()
    one.read(source, NOW + MINUTE)
    assert len(source.asked) == 6  # two instants, two ranges, two counts


def test_p14_a_slowed_prometheus_is_spared_what_can_wait() -> None:
    class Slow(FakeSource):
        slowed = True

    many = [({"app": f"a{i:03}"}, constant(3.0)) for i in range(600)]
    quick, slow = FakeSource({TEMPLATE: many}), Slow({TEMPLATE: many})
    histories = [history(template(max_series=1000)) for _ in range(2)]
    for one, source in zip(histories, (quick, slow), strict=True):
        one.read(source, NOW)
    assert histories[1].backlog > histories[0].backlog
    assert not any(query.startswith("count") for query in slow.asked)


# --- D: data ---------------------------------------------------------------------------------------------------------


def test_d15_no_infinity_reaches_the_grid() -> None:
    def curve(times: IntArray) -> FloatArray:
        values = daily(5)(times)
        values[::3], values[1::9] = np.inf, 1e300
        return values

    reading = history().read(FakeSource({"sum(a)": [({}, curve)]}), NOW)
    assert not np.isinf(reading.context.fine.values).any() and not np.isinf(reading.context.coarse.values).any()
    assert np.isnan(reading.context.fine.values).any()


def test_d16_a_negative_value_where_there_was_never_one_is_a_fault_and_missing() -> None:
    bad_at = int(NOW.timestamp()) // 60 * 60 + 120

    def curve(times: IntArray) -> FloatArray:
        return np.where((times >= bad_at) & (times < bad_at + 60), -5.0, daily(5)(times))

    one = history()
    source = FakeSource({"sum(a)": [({}, curve)]})
    one.read(source, NOW)
    reading = one.read(source, NOW + 2 * MINUTE)
    assert codes(reading) == [["data_fault"]]
    assert np.isnan(reading.newest[0]) and np.isnan(reading.context.fine.values[0, -1])
    later = one.read(source, NOW + 9 * MINUTE)
    assert codes(later) == [[]]
    assert np.isfinite(later.context.fine.values[0]).sum() == 2879


def test_d16_negative_values_that_stay_are_accepted() -> None:
    start = int(NOW.timestamp())
    source = FakeSource({"sum(a)": [({}, lambda times: np.where(times > start + 60, -5.0, 5.0))]})
    one = history()
    for minute in range(70):
        reading = one.read(source, NOW + minute * MINUTE)
    assert reading.newest[0] == -5.0
    assert codes(reading) == [[]]


def test_d16_a_series_that_was_negative_before_may_be_so() -> None:
    one = history()
    source = FakeSource({"sum(a)": [({}, lambda times: np.sin(times / 5000.0))]})
    one.read(source, NOW)
    assert codes(one.read(source, NOW + MINUTE)) == [[]]


@pytest.mark.parametrize(
    ("gap", "during", "after"),
    [
        (timedelta(minutes=1), [], []),
        (timedelta(hours=1), ["series_gone"], []),
        (timedelta(days=1), ["series_gone"], ["too_many_gaps"]),
        (timedelta(days=7), ["series_gone"], ["too_many_gaps"]),
    ],
)
def test_d17_gaps_are_bridged_said_or_too_many(gap: timedelta, during: list[str], after: list[str]) -> None:
    begin = int(NOW.timestamp())
    end = begin + int(gap.total_seconds())

    def curve(times: IntArray) -> FloatArray:
        return np.where((times > begin) & (times <= end), np.nan, daily(5)(times))

    source = FakeSource({"sum(a)": [({}, curve)], "other": [({}, daily(3))]})
    one = history(WorkloadSpec("w", "sum(a)"), WorkloadSpec("other", "other"))
    one.read(source, NOW)
    assert codes(one.read(source, NOW + gap - timedelta(seconds=10)))[0] == during
    reading = one.read(source, NOW + gap + 2 * MINUTE)
    while one.backlog:
        reading = one.read(source, NOW + gap + 2 * MINUTE)
    assert codes(reading)[0] == after
    # Gaps count against what is due: half of a day later there are enough samples again.
    assert codes(one.read(source, NOW + gap + timedelta(hours=13)))[0] == []


def test_d22_the_scale_of_a_series_does_not_matter() -> None:
    grids = []
    for factor in (1e-12, 1.0, 1e15):
        source = FakeSource({"sum(a)": [({}, lambda times, f=factor: f * daily(5)(times))]})  # type: ignore[misc]
        grids.append(np.array(history().read(source, NOW).context.fine.values, dtype=np.float64) / factor)
    np.testing.assert_allclose(grids[0], grids[1], rtol=1e-6)
    np.testing.assert_allclose(grids[2], grids[1], rtol=1e-6)


# --- C: clocks -------------------------------------------------------------------------------------------------------


class OtherClock(FakeSource):
    """A Prometheus whose clock is off ours: it knows nothing after its own now."""

    ahead = timedelta(0)
    ours = NOW

    def _answer(self, query: str, times: IntArray, step: int = 0) -> object:  # type: ignore[override]
        from dataclasses import replace

        theirs = self.ours + self.ahead
        answer = super()._answer(query, times, step)
        values = np.where(times[None, :] > theirs.timestamp(), np.nan, answer.values)
        return replace(answer, values=values, server_time=theirs.replace(microsecond=0))


@pytest.mark.parametrize("ahead", [timedelta(minutes=-10), timedelta(seconds=40)])
def test_clocks_apart_are_said_and_prometheus_clock_is_used(ahead: timedelta) -> None:
    source = OtherClock({"sum(a)": [({}, daily(5))]})
    source.ahead = ahead
    reading = history().read(source, NOW)
    assert reading.clock_skew_seconds == pytest.approx(ahead.total_seconds(), abs=1)
    assert abs(reading.now - (NOW + ahead)) <= timedelta(seconds=1)
    assert reading.context.fine.origin <= NOW + ahead + timedelta(seconds=1)
    assert np.isfinite(reading.newest[0]) and np.isfinite(reading.context.fine.values).all()
    assert codes(reading) == [[]]
    assert "clock" in reading.notices[0].detail


def test_a_slow_failure_before_the_first_answer_is_no_skew() -> None:
    class Slow(OtherClock):
        def instant(self, query: str, at: datetime) -> object:  # type: ignore[override]
            if query == "slow":
                self.ours += timedelta(seconds=25)
                raise SourceError("Prometheus refused the query: query timed out", ReasonCode.QUERY_ERROR)
            return super().instant(query, at)

    source = Slow({"sum(a)": [({}, daily(5))]})
    reading = history(WorkloadSpec("s", "slow"), WorkloadSpec("w", "sum(a)")).read(source, NOW)
    assert reading.now == NOW and reading.clock_skew_seconds is None


def test_clocks_a_second_apart_are_nobodys_business() -> None:
    source = OtherClock({"sum(a)": [({}, daily(5))]})
    source.ahead = timedelta(seconds=2)
    reading = history().read(source, NOW)
    assert reading.now == NOW and reading.notices == ()


def test_c51_our_clock_jumps_back_and_prometheus_clock_carries_on() -> None:
    source = OtherClock({"sum(a)": [({}, daily(5))]})
    one = history()
    before = one.read(source, NOW)
    source.ours, source.ahead = NOW + MINUTE - timedelta(hours=1), timedelta(hours=1)
    after = one.read(source, source.ours)
    assert after.new_column
    assert after.context.fine.origin == before.context.fine.origin + MINUTE
    assert codes(after) == [[]]
    times = after.context.fine.times
    assert (np.diff(times) == 60).all()


def test_c51_both_clocks_jump_back_and_the_grid_waits_for_them() -> None:
    source = OtherClock({"sum(a)": [({}, daily(5))]})
    one = history()
    before = one.read(source, NOW)
    values = np.array(before.context.fine.values)
    back = NOW - timedelta(hours=1)
    for minute in range(61):
        source.ours = back + minute * MINUTE
        source.asked.clear()
        reading = one.read(source, source.ours)
        assert not reading.new_column
        assert reading.context.fine.origin == before.context.fine.origin
        assert reading.data_through[0] <= source.ours.timestamp()
        assert source.asked == ["sum(a)"]  # no range that would end before it begins
    np.testing.assert_array_equal(reading.context.fine.values, values)
    source.ours = NOW + MINUTE
    assert one.read(source, source.ours).new_column


def test_c51_a_clock_that_was_days_ahead_does_not_block_the_grid() -> None:
    source = FakeSource({"sum(a)": [({}, daily(5))]})
    one = history()
    one.read(source, NOW + timedelta(days=400))
    reading = one.read(source, NOW)
    assert reading.new_column
    assert reading.context.fine.origin == NOW.replace(second=0)
    assert np.isfinite(reading.context.fine.values).all()
    assert reading.data_through[0] <= NOW.timestamp()
