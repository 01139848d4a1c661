"""The source over HTTP: what it sends, what it makes of each answer, and when it gives up."""

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.errors import SourceError
from forecaster.prometheus import MOST_POINTS, PrometheusSource, _fill
from forecaster.reasons import ReasonCode
from tests.fake_prometheus import Asked, FakePrometheus, Reply, grid, matrix, refused, success, vector
from tests.source import BasicAuth, Clock, source_of

NOW = datetime(2026, 3, 1, 12, 0, 7, 250_000, tzinfo=UTC)
END = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_an_instant_query_gives_labels_and_values(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: vector(({"app": "a"}, 1.5), ({"app": "b"}, "2"))
    samples = source_of(fake_prometheus.url).instant("sum by (app) (x)", NOW)
    assert [dict(labels) for labels in samples.labels] == [{"app": "a"}, {"app": "b"}]
    assert samples.values.tolist() == [[1.5], [2.0]]
    assert samples.server_time is not None
    assert not samples.partial
    asked = fake_prometheus.asked[0]
    assert asked.params["query"] == "sum by (app) (x)"
    assert float(asked.params["time"]) == NOW.timestamp()  # not rounded to seconds
    assert asked.params["timeout"].endswith("ms")
    assert asked.headers["accept-encoding"] == "identity"


def test_a_scalar_is_one_series_without_labels(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: success({"resultType": "scalar", "result": [0, "4"]})
    samples = source_of(fake_prometheus.url).instant("scalar(x)", NOW)
    assert samples.values.tolist() == [[4.0]]


def test_a_range_lands_on_its_grid_with_gaps_as_nan(fake_prometheus: FakePrometheus) -> None:
    end = int(END.timestamp())
    fake_prometheus.answer = lambda asked: matrix(({"a": "b"}, [(end - 120, 1.0), (end, "3.25")]))
    samples = source_of(fake_prometheus.url).range("x", END - 3 * MINUTE, END, MINUTE)
    assert samples.times.tolist() == [end - 180, end - 120, end - 60, end]
    np.testing.assert_array_equal(samples.values, [[np.nan, 1.0, np.nan, 3.25]])


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "1e400"])
def test_what_is_no_number_is_a_missing_sample(fake_prometheus: FakePrometheus, text: str) -> None:
    end = int(END.timestamp())
    source = source_of(fake_prometheus.url)
    fake_prometheus.answer = lambda asked: vector(({}, text))
    assert math.isnan(source.instant("x", NOW).values[0, 0])
    fake_prometheus.answer = lambda asked: matrix(({}, [(end - 60, text), (end, "2")]))
    np.testing.assert_array_equal(source.range("x", END - MINUTE, END, MINUTE).values, [[np.nan, 2.0]])


@given(st.lists(st.floats() | st.none(), min_size=1, max_size=40))
def test_the_fast_and_the_slow_way_of_decoding_agree(values: list[float | None]) -> None:
    import json

    import msgspec

    row = np.full(len(values), np.nan)
    text = [[i * 60, repr(v)] for i, v in enumerate(values) if v is not None]
    _fill(row, msgspec.Raw(json.dumps(text, separators=(",", ":")).encode()), 0, 60)
    expected = [math.nan if v is None or not math.isfinite(v) else v for v in values]
    np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("points", [5, 100])
def test_short_and_long_answers_are_read_alike(fake_prometheus: FakePrometheus, points: int) -> None:
    def answer(asked: Asked) -> Reply:
        times = grid(asked)
        rows = [(t, "NaN" if t == times[1] else t / 7) for t in times if t != times[3]]
        return matrix(({"n": "a"}, rows), ({"n": "b"}, [(t, 1) for t in times]), ({"n": "c"}, []))

    fake_prometheus.answer = answer
    samples = source_of(fake_prometheus.url).range("x", END - (points - 1) * MINUTE, END, MINUTE)
    expected = samples.times / 7
    expected[[1, 3]] = np.nan
    np.testing.assert_array_equal(samples.values, [expected, np.ones(points), np.full(points, np.nan)])


def test_a_native_histogram_is_no_value(fake_prometheus: FakePrometheus) -> None:
    result = [{"metric": {}, "histogram": [0, {}]}, {"metric": {"a": "b"}, "value": [0, "1"]}]
    fake_prometheus.answer = lambda asked: success({"resultType": "vector", "result": result})
    assert source_of(fake_prometheus.url).instant("x", NOW).labels == ({"a": "b"},)


def test_warnings_mean_partial_and_infos_do_not(fake_prometheus: FakePrometheus) -> None:
    source = source_of(fake_prometheus.url)
    fake_prometheus.replies = [
        vector(({}, 1), warnings=["store down"]),
        success({"resultType": "vector", "result": []}, infos=["metric might not be a counter"]),
    ]
    first, second = source.instant("x", NOW), source.instant("x", NOW)
    assert first.partial and first.warnings == ("store down",)
    assert not second.partial
    assert source.stats().outcomes == {"partial": 1, "ok": 1}


def test_a_long_query_travels_as_a_form(fake_prometheus: FakePrometheus) -> None:
    query = "sum(x{" + ",".join(f'l{i}="{i}"' for i in range(500)) + "})"
    source_of(fake_prometheus.url).instant(query, NOW)
    asked = fake_prometheus.asked[0]
    assert asked.method == "POST"
    assert asked.params["query"] == query


def test_a_long_range_is_asked_for_in_pieces_that_do_not_overlap(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: matrix(({}, [(t, t) for t in grid(asked)]))
    points = 2 * MOST_POINTS + 5
    samples = source_of(fake_prometheus.url).range("x", END - (points - 1) * MINUTE, END, MINUTE)
    asked = [grid(one) for one in fake_prometheus.asked]
    assert [len(times) for times in asked] == [MOST_POINTS, MOST_POINTS, 5]
    assert [t for times in asked for t in times] == samples.times.tolist()
    assert samples.values[0].tolist() == samples.times.tolist()


def test_series_that_only_a_piece_has_are_nan_in_the_others(fake_prometheus: FakePrometheus) -> None:
    def answer(asked: Asked) -> Reply:
        times = grid(asked)
        name = "early" if len(times) == MOST_POINTS else "late"
        return matrix(({"n": name}, [(times[0], 1)]), ({"n": "both"}, [(times[0], 2)]))

    fake_prometheus.answer = answer
    samples = source_of(fake_prometheus.url).range("x", END - MOST_POINTS * MINUTE, END, MINUTE)
    assert [labels["n"] for labels in samples.labels] == ["early", "both", "late"]
    assert np.isfinite(samples.values).sum(axis=1).tolist() == [1, 2, 1]
    assert samples.values[2, -1] == 1.0


def test_too_many_samples_halves_the_piece_and_is_remembered(fake_prometheus: FakePrometheus) -> None:
    def answer(asked: Asked) -> Reply:
        if len(grid(asked)) > 30:
            return refused("query processing would load too many samples into memory in query execution")
        return matrix(({}, [(t, 1) for t in grid(asked)]))

    fake_prometheus.answer = answer
    source = source_of(fake_prometheus.url)
    samples = source.range("x", END - 99 * MINUTE, END, MINUTE)
    assert np.isfinite(samples.values).all() and samples.values.shape == (1, 100)
    fake_prometheus.asked.clear()
    source.range("x", END - 99 * MINUTE, END, MINUTE)
    assert [len(grid(asked)) for asked in fake_prometheus.asked] == [25, 25, 25, 25]


def test_an_empty_range_sends_nothing(fake_prometheus: FakePrometheus) -> None:
    samples = source_of(fake_prometheus.url).range("x", END, END - MINUTE, MINUTE)
    assert samples.values.shape == (0, 0)
    assert not fake_prometheus.asked


def test_times_off_the_grid_or_without_zone_are_the_callers_bug(fake_prometheus: FakePrometheus) -> None:
    source = source_of(fake_prometheus.url)
    with pytest.raises(ValueError, match="grid"):
        source.range("x", NOW, NOW, MINUTE)
    with pytest.raises(ValueError, match="time zone"):
        source.instant("x", datetime(2026, 3, 1))


@pytest.mark.parametrize(
    ("reply", "reason", "words"),
    [
        (refused("parse error: unexpected end", 400, "bad_data"), ReasonCode.QUERY_ERROR, "parse error: unexpected"),
        (refused("found duplicate series", 422), ReasonCode.QUERY_ERROR, "found duplicate series"),
        (refused("query timed out", 503, "timeout"), ReasonCode.QUERY_ERROR, "query timed out"),
        (Reply(b"<html>log in</html>"), ReasonCode.QUERY_ERROR, "answered HTML, not Prometheus: URL or auth?"),
        (Reply(b"hello"), ReasonCode.QUERY_ERROR, "not JSON"),
        (Reply(b'{"status":"succ'), ReasonCode.QUERY_ERROR, "cut short"),
        (Reply(b"nothing here", 404), ReasonCode.QUERY_ERROR, "status 404"),
        (Reply(b"", 302, {"Location": "https://sso.example/login?token=s3cret"}), ReasonCode.QUERY_ERROR, "redirect"),
        (Reply(b"", 403), ReasonCode.UNAUTHORISED, "403"),
        (success({"resultType": "matrix", "result": []}), ReasonCode.QUERY_ERROR, "not one value per series"),
        (
            success({"resultType": "vector", "result": [{"metric": 3, "value": [0, "1"]}]}),
            ReasonCode.QUERY_ERROR,
            "cannot be read",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_bad_answer_has_its_reason_and_one_line(
    fake_prometheus: FakePrometheus, reply: Reply, reason: ReasonCode, words: str
) -> None:
    fake_prometheus.answer = lambda asked: reply
    source = source_of(fake_prometheus.url, Clock())
    with pytest.raises(SourceError) as caught:
        source.instant("x", NOW)
    assert caught.value.reason is reason
    assert words in str(caught.value)
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)
    assert len(fake_prometheus.asked) == 1


@pytest.mark.parametrize("points", [1, 100])
def test_a_range_with_foreign_times_is_refused(fake_prometheus: FakePrometheus, points: int) -> None:
    fake_prometheus.answer = lambda asked: matrix(({}, [(5, 1)]))
    with pytest.raises(SourceError, match="not the ones that were asked for"):
        source_of(fake_prometheus.url).range("x", END - (points - 1) * MINUTE, END, MINUTE)


def test_busy_answers_are_retried_with_growing_jittered_pauses(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.replies = [Reply(b"", 503), Reply(b"", 429), Reply(b"", 502)]
    clock = Clock()
    source = source_of(fake_prometheus.url, clock)
    source.instant("x", NOW)
    assert clock.slept == [0.25, 0.5, 1.0]
    assert (source.stats().queries, source.stats().retries) == (4, 3)


def test_retry_after_is_honoured(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.replies = [Reply(b"", 429, {"Retry-After": "7"})]
    clock = Clock()
    source_of(fake_prometheus.url, clock).instant("x", NOW)
    assert clock.slept == [7.0]


def test_retry_after_as_a_date_counts_from_the_servers_clock(fake_prometheus: FakePrometheus) -> None:
    later = {"Date": "Sun, 01 Mar 2026 12:00:00 GMT", "Retry-After": "Sun, 01 Mar 2026 12:00:09 GMT"}
    fake_prometheus.replies = [Reply(b"", 503, later)]
    clock = Clock()
    source_of(fake_prometheus.url, clock).instant("x", NOW)
    assert clock.slept == [9.0]


def test_a_pause_beyond_the_deadline_is_not_waited_for(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: Reply(b"", 503, {"Retry-After": "3600"})
    clock = Clock()
    with pytest.raises(SourceError, match="503") as caught:
        source_of(fake_prometheus.url, clock).instant("x", NOW)
    assert caught.value.reason is ReasonCode.STALE_DATA
    assert clock.slept == []


def test_retries_end_at_the_deadline(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: Reply(b"", 503)
    clock = Clock()
    with pytest.raises(SourceError, match="out of reach at http"):
        source_of(fake_prometheus.url, clock, timeout=timedelta(seconds=10)).instant("x", NOW)
    assert sum(clock.slept) < 10.0


def test_no_more_queries_at_once_than_allowed(fake_prometheus: FakePrometheus) -> None:
    both_inside = threading.Barrier(2, timeout=20)

    def answer(asked: Asked) -> Reply:
        both_inside.wait()  # passes only if two are inside at the same time
        return vector()

    fake_prometheus.answer = answer
    source = source_of(fake_prometheus.url, max_concurrency=2)
    threads = [threading.Thread(target=source.instant, args=("x", NOW)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake_prometheus.most_inside == 2


def slow_source(fake: FakePrometheus, seconds: Callable[[], float]) -> tuple[PrometheusSource, Clock]:
    """A source for which each query takes `seconds()`."""
    clock = Clock()

    def answer(asked: Asked) -> Reply:
        clock.now += seconds()
        return vector(({}, 1))

    fake.answer = answer
    return source_of(fake.url, clock), clock


def test_doubled_latency_means_slowed_and_recovery_ends_it(fake_prometheus: FakePrometheus) -> None:
    takes = 0.2
    source, _ = slow_source(fake_prometheus, lambda: takes)
    for _ in range(10):
        source.instant("x", NOW)
    assert not source.slowed
    takes = 1.0
    for _ in range(5):
        source.instant("x", NOW)
    assert source.slowed and source.stats().slowed
    takes = 0.2
    for _ in range(10):
        source.instant("x", NOW)
    assert not source.slowed


def test_noise_of_milliseconds_is_not_a_slow_prometheus(fake_prometheus: FakePrometheus) -> None:
    takes = iter([0.001, 0.004] * 20)
    source, _ = slow_source(fake_prometheus, lambda: next(takes))
    for _ in range(30):
        source.instant("x", NOW)
    assert not source.slowed


# --- credentials ---


def test_the_bearer_token_is_read_again_for_each_request(fake_prometheus: FakePrometheus, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    source = source_of(fake_prometheus.url, bearer_token_file=token)
    source.instant("x", NOW)
    token.write_text("two")
    source.instant("x", NOW)
    assert [asked.headers["authorization"] for asked in fake_prometheus.asked] == ["Bearer one", "Bearer two"]


def test_a_401_is_tried_once_more_and_then_unauthorised(fake_prometheus: FakePrometheus, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    fake_prometheus.answer = lambda asked: Reply(b"who are you?", 401)
    with pytest.raises(SourceError) as caught:
        source_of(fake_prometheus.url, bearer_token_file=token).instant("x", NOW)
    assert caught.value.reason is ReasonCode.UNAUTHORISED
    assert "s3cret" not in str(caught.value)
    assert len(fake_prometheus.asked) == 2


@pytest.mark.parametrize("text", ["", "two words", "naïve", "with\x00zero"])
def test_a_token_that_is_none_is_said_without_showing_it(
    fake_prometheus: FakePrometheus, tmp_path: Path, text: str
) -> None:
    token = tmp_path / "token"
    token.write_text(text)
    with pytest.raises(SourceError, match="does not hold a token") as caught:
        source_of(fake_prometheus.url, bearer_token_file=token).instant("x", NOW)
    assert not text or text not in str(caught.value)
    assert caught.value.reason is ReasonCode.UNAUTHORISED
    assert not fake_prometheus.asked


def test_a_missing_token_file_is_named(fake_prometheus: FakePrometheus, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"bearerTokenFile .*absent: No such file"):
        source_of(fake_prometheus.url, bearer_token_file=tmp_path / "absent").instant("x", NOW)


def test_basic_auth_from_a_file_and_extra_headers(fake_prometheus: FakePrometheus, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("p w\n")
    auth = BasicAuth("me", password)
    source_of(fake_prometheus.url, basic_auth=auth, headers={"X-Scope-OrgID": "team"}).instant("x", NOW)
    headers = fake_prometheus.asked[0].headers
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")) == b"me:p w"
    assert headers["x-scope-orgid"] == "team"


def test_credentials_in_the_url_are_used_and_never_shown(fake_prometheus: FakePrometheus) -> None:
    source = source_of(fake_prometheus.url.replace("http://", "http://me:s3cret@"), Clock())
    source.instant("x", NOW)
    assert base64.b64decode(fake_prometheus.asked[0].headers["authorization"].split()[1]) == b"me:s3cret"
    fake_prometheus.answer = lambda asked: Reply(b"", 503, {"Retry-After": "999"})
    with pytest.raises(SourceError) as caught:
        source.instant("x", NOW)
    assert "s3cret" not in str(caught.value) and "s3cret" not in source.url


def test_netrc_does_not_displace_the_token(
    fake_prometheus: FakePrometheus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login x password y\n")
    monkeypatch.setenv("NETRC", str(netrc))
    (tmp_path / "token").write_text("mine")
    source_of(fake_prometheus.url, bearer_token_file=tmp_path / "token").instant("x", NOW)
    assert fake_prometheus.asked[0].headers["authorization"] == "Bearer mine"


# --- the rest ---


def test_the_server_tells_its_version(fake_prometheus: FakePrometheus) -> None:
    def answer(asked: Asked) -> Reply:
        return success({"version": "2.42.0"}) if "buildinfo" in asked.path else vector(({}, 1))

    fake_prometheus.answer = answer
    info = source_of(fake_prometheus.url).server_info()
    assert (info.version, info.is_prometheus, info.url) == ("2.42.0", True, fake_prometheus.url)


def test_a_server_without_a_version_is_asked_for_a_value(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: Reply(b"", 404) if "buildinfo" in asked.path else vector(({}, 1))
    info = source_of(fake_prometheus.url).server_info()
    assert info.version is None and info.is_prometheus


def test_the_same_labels_are_the_same_object_query_after_query(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: vector(({"app": "a"}, 1))
    source = source_of(fake_prometheus.url)
    assert source.instant("x", NOW).labels[0] is source.instant("x", NOW).labels[0]


def test_statistics_count_queries_and_samples(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: vector(({"a": "1"}, 1), ({"a": "2"}, 2))
    source = source_of(fake_prometheus.url)
    source.instant("x", NOW)
    stats = source.stats()
    assert (stats.queries, stats.samples, stats.outcomes) == (1, 2, {"ok": 1})
    assert stats.received_bytes > 0
