"""History: rows, grids, templates, what is asked when, and the cache that survives a restart."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from forecaster.chunks import merged, without
from forecaster.domain import LOAD, Event, FloatArray, IntArray, ResourceSpec, ScaleSpec, SeriesKey, WorkloadSpec
from forecaster.errors import SourceError
from forecaster.history import (
    PIECE_POINTS,
    READ_POINTS,
    History,
    HistoryChunk,
    Reading,
    read_once,
)
from forecaster.reasons import ReasonCode
from tests.fakes import FakeSource, constant, daily

NOW = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
INTERVAL = timedelta(seconds=15)
DAYS = timedelta(days=4)
TEMPLATE = "sum by (ns, app) (rate(b[1m]))"
PLAIN = WorkloadSpec("w", "sum(a)")
FOR_EACH = WorkloadSpec(
    "{ns}/{app}",
    TEMPLATE,
    for_each=("ns", "app"),
    max_series=100,
    timezone="Europe/Berlin",
    scale=ScaleSpec("{ns}", "{app}-hpa"),
)


def plain_source() -> FakeSource:
    return FakeSource({"sum(a)": [({}, daily(100))]})


def template_source(*names: str) -> FakeSource:
    return FakeSource({TEMPLATE: [({"ns": "n", "app": name}, daily(10, seed=i)) for i, name in enumerate(names)]})


def history(*specs: WorkloadSpec, span: timedelta = DAYS) -> History:
    return History(specs, MINUTE, span)


def codes(reading: Reading) -> list[list[str]]:
    return [[reason.code.value for reason in row] for row in reading.reasons]


# --- grids -----------------------------------------------------------------------------------------------------------


def test_a_cold_start_fills_both_grids() -> None:
    reading = history(PLAIN).read(plain_source(), NOW)
    fine, coarse = reading.context.fine, reading.context.coarse
    assert reading.new_column
    assert fine.origin == NOW.replace(second=0) and fine.step == MINUTE and fine.values.shape == (1, 2880)
    assert coarse.origin == fine.origin and coarse.step == 5 * MINUTE and coarse.values.shape == (1, 4 * 288)
    np.testing.assert_allclose(fine.values[0], daily(100)(fine.times), rtol=1e-6)
    assert fine.values.dtype == coarse.values.dtype == np.float32


def test_coarse_is_the_mean_of_fine_in_back_fill_and_live() -> None:
    source, one = plain_source(), history(PLAIN)
    for minute in range(12):
        coarse = one.read(source, NOW + minute * MINUTE).context.coarse
    minutes = coarse.times[:, None] - 60 * np.arange(5)
    np.testing.assert_allclose(coarse.values[0], daily(100)(minutes.ravel()).reshape(-1, 5).mean(axis=1), rtol=1e-5)


def test_the_back_fill_subquery_holds_exactly_the_points_of_one_coarse_interval() -> None:
    source = plain_source()
    history(PLAIN).read(source, NOW)
    assert "avg_over_time((sum(a))[299s:60s])" in source.asked


def test_a_comment_in_the_expression_does_not_swallow_the_bracket() -> None:
    source = FakeSource({"sum(a) # all": [({}, daily(3))]})
    history(WorkloadSpec("w", "sum(a) # all")).read(source, NOW)
    assert "avg_over_time((sum(a) # all\n)[299s:60s])" in source.asked


def test_a_new_column_comes_only_when_a_step_has_passed() -> None:
    source, one = plain_source(), history(PLAIN)
    moved = [one.read(source, NOW + n * INTERVAL).new_column for n in range(9)]
    assert moved == [True, False, False, False, True, False, False, False, True]


def test_the_newest_value_is_of_now_and_not_of_the_grid() -> None:
    source, one = plain_source(), history(PLAIN)
    one.read(source, NOW)
    reading = one.read(source, NOW + INTERVAL)
    at = int((NOW + INTERVAL).timestamp())
    assert reading.newest[0] == daily(100)(np.array([at], dtype=np.int64))[0]
    assert reading.newest_at[0] == at and reading.data_through[0] == at


@pytest.mark.parametrize("step", [15, 60, 120, 420])
def test_other_steps_keep_coarse_a_whole_number_of_fine_ones(step: int) -> None:
    one = History([PLAIN], timedelta(seconds=step), timedelta(days=30))
    reading = one.read(plain_source(), NOW)
    fine, coarse = reading.context.fine, reading.context.coarse
    ratio = int(coarse.step / fine.step)
    assert coarse.step >= 5 * MINUTE and coarse.step == ratio * fine.step
    assert coarse.origin <= fine.origin
    tail = int((fine.origin - coarse.origin) / fine.step)
    block = fine.values[0, fine.values.shape[1] - tail - ratio : fine.values.shape[1] - tail]
    assert coarse.values[0, -1] == pytest.approx(block.mean(), rel=1e-5)


def test_a_long_absence_is_read_in_full_when_we_are_back() -> None:
    source, one = plain_source(), history(PLAIN, span=timedelta(days=20))
    one.read(source, NOW)
    reading = one.read(source, NOW + timedelta(days=5))
    assert np.isfinite(reading.context.fine.values).all() and np.isfinite(reading.context.coarse.values).all()
    assert codes(reading) == [[]]


def test_context_arrays_cannot_be_written() -> None:
    reading = history(PLAIN).read(plain_source(), NOW)
    with pytest.raises(ValueError, match="read-only"):
        reading.context.fine.values[0, 0] = 1.0


def test_many_days_of_reading_leave_the_grid_exact() -> None:
    """The window moves on in its buffer and is shifted back again and again."""
    source, one = plain_source(), history(PLAIN)
    for hours in range(0, 24 * 9, 7):
        reading = one.read(source, NOW + timedelta(hours=hours))
    for batch in (reading.context.fine, reading.context.coarse):
        assert np.isfinite(batch.values).all()
    np.testing.assert_allclose(reading.context.fine.values[0], daily(100)(reading.context.fine.times), rtol=1e-6)


# --- cold start as a guest -------------------------------------------------------------------------------------------


def test_back_fill_is_spread_over_readings_fine_first_and_newest_first() -> None:
    class Sized(FakeSource):
        points: list[int]

        def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> object:  # type: ignore[override]
            answer = super().range(query, start, end, step)
            self.points.append(answer.values.size)
            return answer

    rows = 2_000
    source = Sized({TEMPLATE: [({"ns": "n", "app": f"{i:04}"}, constant(i)) for i in range(rows)]})
    source.points = []
    spec = dataclasses.replace(FOR_EACH, max_series=rows)
    one = history(spec)
    first = one.read(source, NOW)
    assert one.backlog > 0
    assert max(source.points) <= PIECE_POINTS and sum(source.points) <= READ_POINTS + PIECE_POINTS
    known = np.isfinite(first.context.fine.values[0])
    assert known[-1] and not known[0]  # the newest part
    assert np.isfinite(first.context.coarse.values).sum() < first.context.coarse.values.size
    assert not any("avg_over_time" in query for query in source.asked)
    reading = first
    for n in range(1, 12):
        reading = one.read(source, NOW + n * INTERVAL)
    assert one.backlog == 0
    assert np.isfinite(reading.context.fine.values).all() and np.isfinite(reading.context.coarse.values).all()


def test_back_fill_that_is_refused_does_not_come_back_for_ever() -> None:
    class NoSubqueries(FakeSource):
        def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> object:  # type: ignore[override]
            if "avg_over_time" in query:
                self.asked.append(query)
                raise SourceError("Prometheus refused the query: no subqueries", ReasonCode.QUERY_ERROR)
            return super().range(query, start, end, step)

    source = NoSubqueries(plain_source().series)
    one = history(PLAIN)
    readings = [one.read(source, NOW + n * INTERVAL) for n in range(8)]
    assert len([query for query in source.asked if "avg_over_time" in query]) < 8
    assert any("history cannot be read" in notice.detail for reading in readings for notice in reading.notices)
    assert codes(readings[-1]) == [[]] and np.isfinite(readings[-1].context.fine.values).all()


# --- templates -------------------------------------------------------------------------------------------------------


def test_a_template_gives_a_workload_per_combination_by_one_query() -> None:
    source = template_source("b", "a")
    reading = history(FOR_EACH).read(source, NOW)
    assert [work.name for work in reading.workloads] == ["n/a", "n/b"]
    work = reading.workloads[0]
    assert work.labels == {"ns": "n", "app": "a"}
    assert work.scale is not None and (work.scale.namespace, work.scale.hpa) == ("n", "a-hpa")
    assert reading.context.calendar.timezones == ("Europe/Berlin", "Europe/Berlin")
    assert source.asked.count(TEMPLATE) == 2  # now, and its history


def test_a_templates_name_without_placeholders_gets_the_labels() -> None:
    reading = history(dataclasses.replace(FOR_EACH, name="all")).read(template_source("a"), NOW)
    assert [work.name for work in reading.workloads] == ["all/n/a"]


def test_a_label_value_is_never_read_as_a_placeholder() -> None:
    source = FakeSource({TEMPLATE: [({"ns": "{app}", "app": "x"}, daily(1))]})
    assert [work.name for work in history(FOR_EACH).read(source, NOW).workloads] == ["{app}/x"]


def test_series_without_the_label_are_left_out_and_said() -> None:
    source = FakeSource({TEMPLATE: [({"ns": "n"}, daily(1)), ({"ns": "n", "app": "a"}, daily(1))]})
    reading = history(FOR_EACH).read(source, NOW)
    assert [work.name for work in reading.workloads] == ["n/a"]
    assert "lack a label" in reading.notices[0].detail


def test_a_template_that_matches_nothing_is_a_notice() -> None:
    reading = history(FOR_EACH, PLAIN).read(plain_source(), NOW)
    assert [notice.code for notice in reading.notices] == [ReasonCode.NO_DATA]
    assert len(reading.reasons) == 1


def test_two_workloads_of_one_name_are_refused() -> None:
    reading = history(PLAIN, dataclasses.replace(PLAIN, load="sum(c)")).read(plain_source(), NOW)
    assert len(reading.workloads) == 1
    assert [notice.code for notice in reading.notices] == [ReasonCode.CONFIG_INVALID]


def test_a_plain_expression_whose_one_series_was_renamed_keeps_its_history() -> None:
    at = NOW.timestamp() - 3600

    def before(times: IntArray) -> FloatArray:
        return np.where(times < at, daily(5)(times), np.nan)

    def after(times: IntArray) -> FloatArray:
        return np.where(times < at, np.nan, daily(5)(times))

    source = FakeSource({"a": [({"instance": "x"}, before), ({"instance": "y"}, after)]})
    reading = history(WorkloadSpec("w", "a")).read(source, NOW)
    assert codes(reading) == [[]]
    assert np.isfinite(reading.context.fine.values).all()


# --- reasons ---------------------------------------------------------------------------------------------------------


def test_what_never_matched_is_no_data() -> None:
    reading = history(WorkloadSpec("lost", "nothing"), PLAIN).read(plain_source(), NOW)
    assert codes(reading) == [["no_data"], []]
    assert np.isnan(reading.data_through[0])


def test_a_series_with_few_samples_has_too_many_gaps() -> None:
    def curve(times: IntArray) -> FloatArray:
        return np.where((times // 60) % 3 == 0, daily(5)(times), np.nan)

    reading = history(PLAIN).read(FakeSource({"sum(a)": [({}, curve)]}), NOW)
    assert codes(reading) == [["too_many_gaps"]]
    assert "33%" in reading.reasons[0][0].detail


def test_a_young_series_is_judged_by_its_own_age() -> None:
    born = NOW.timestamp() - 3600

    def curve(times: IntArray) -> FloatArray:
        return np.where(times > born, daily(5)(times), np.nan)

    assert codes(history(PLAIN).read(FakeSource({"sum(a)": [({}, curve)]}), NOW)) == [[]]


def test_an_unreachable_prometheus_at_the_start_recovers_completely() -> None:
    source = plain_source()
    source.broken = SourceError("Prometheus is out of reach at http://x: connection refused")
    one = history(PLAIN)
    first = one.read(source, NOW)
    assert codes(first) == [["stale_data"]] and first.new_column
    assert [notice.code for notice in first.notices] == [ReasonCode.STALE_DATA]
    for n in range(1, 9):
        one.read(source, NOW + n * INTERVAL)
    source.broken = None
    one.read(source, NOW + 9 * INTERVAL)
    reading = one.read(source, NOW + 10 * INTERVAL)
    assert codes(reading) == [[]]
    assert np.isfinite(reading.context.fine.values[0, :-1]).all()
    assert np.isfinite(reading.context.coarse.values).all()


# --- resources, counts, capacity, limits, facts ----------------------------------------------------------------------

RICH = WorkloadSpec(
    "w",
    "sum(a)",
    scale=ScaleSpec("shop", "checkout", capacity_query="cap"),
    resources=(ResourceSpec("cpu", "sum(c)", "limit_c"), ResourceSpec("memory", "m")),
)


def rich_source() -> FakeSource:
    hpa = {"namespace": "shop", "horizontalpodautoscaler": "checkout"}
    prefix = "kube_horizontalpodautoscaler_"
    return FakeSource(
        {
            "sum(a)": [({}, daily(100))],
            "sum(c)": [({}, daily(4))],
            "m": [({"pod": "x"}, constant(1e9))],
            "count (a{})": [({}, constant(3))],
            "count (c{})": [({}, constant(7))],
            "cap": [({}, constant(120.0))],
            "limit_c": [({}, constant(8.0))],
            f"{prefix}spec_max_replicas": [(hpa, constant(40))],
            f"{prefix}spec_min_replicas": [(hpa, constant(2))],
        }
    )


def test_resources_counts_capacity_limits_and_facts_come_with_the_reading() -> None:
    reading = history(RICH).read(rich_source(), NOW)
    assert reading.context.fine.keys == (SeriesKey("w", LOAD), SeriesKey("w", "cpu"), SeriesKey("w", "memory"))
    np.testing.assert_array_equal(reading.series_count, [3, 7, np.nan])
    np.testing.assert_array_equal(reading.limits, [np.nan, 8.0, np.nan])
    assert reading.capacity == {"w": 120.0}
    facts = reading.facts["shop/checkout"]
    assert (facts.min_replicas, facts.max_replicas) == (2, 40)
    assert reading.newest[2] == np.float32(1e9)
    assert reading.newest_at[2] == int(NOW.timestamp()) // 60 * 60


def test_what_changes_slowly_is_asked_for_once_a_step() -> None:
    source, one = rich_source(), history(RICH)
    one.read(source, NOW)
    source.asked.clear()
    reading = one.read(source, NOW + INTERVAL)
    assert source.asked == ["sum(a)"]
    assert reading.capacity == {"w": 120.0} and reading.limits[1] == 8.0
    assert np.isfinite(reading.newest).all()


def test_capacity_and_limit_outlive_a_missing_answer_for_an_hour() -> None:
    source, one = rich_source(), history(RICH)
    one.read(source, NOW)
    del source.series["cap"], source.series["limit_c"]
    soon = one.read(source, NOW + 30 * MINUTE)
    assert soon.capacity == {"w": 120.0} and soon.limits[1] == 8.0
    late = one.read(source, NOW + 90 * MINUTE)
    assert late.capacity == {} and np.isnan(late.limits[1])


def test_one_number_may_be_the_capacity_of_all_workloads_of_a_template() -> None:
    source = template_source("a", "b")
    source.series["cap"] = [({}, constant(5.0))]
    scale = dataclasses.replace(FOR_EACH.scale, capacity_query="cap")  # type: ignore[type-var]
    reading = history(dataclasses.replace(FOR_EACH, scale=scale)).read(source, NOW)
    assert reading.capacity == {"n/a": 5.0, "n/b": 5.0}


def test_a_capacity_query_that_fails_is_a_notice_and_no_harm() -> None:
    class Refusing(FakeSource):
        def instant(self, query: str, at: datetime) -> object:  # type: ignore[override]
            if query == "cap":
                raise SourceError("Prometheus refused the query: no", ReasonCode.QUERY_ERROR)
            return super().instant(query, at)

    reading = history(RICH).read(Refusing(rich_source().series), NOW)
    assert codes(reading) == [[], [], []]
    assert [notice.code for notice in reading.notices] == [ReasonCode.QUERY_ERROR]


# --- events ----------------------------------------------------------------------------------------------------------


def test_excluded_events_mask_the_intervals_that_they_touch() -> None:
    source, one = template_source("a", "b"), history(FOR_EACH)
    one.read(source, NOW)
    end = NOW.replace(second=0)
    begin = end - timedelta(hours=1, seconds=30)
    one.exclude([Event("1", "outage", "n/a", begin, end), Event("2", "deploy", "*", begin, end, exclude=False)])
    context = one.read(source, NOW + INTERVAL).context
    assert context.masked is not None and context.coarse_masked is not None
    assert context.masked.sum(axis=1).tolist() == [61, 0]
    assert context.coarse_masked.sum(axis=1).tolist() == [13, 0]
    assert context.fine.times[context.masked[0]].max() == end.timestamp()
    one.exclude([])
    assert one.read(source, NOW + 2 * INTERVAL).context.masked is None


# --- the cache -------------------------------------------------------------------------------------------------------


def through_bytes(one: History) -> list[HistoryChunk]:
    return [HistoryChunk.from_bytes(chunk.to_bytes()) for chunk in one.dump()]


def test_a_restart_reads_only_what_is_missing() -> None:
    source = template_source("a", "b")
    before = history(FOR_EACH, PLAIN)
    source.series |= plain_source().series
    old = before.read(source, NOW).context
    fine, coarse = np.array(old.fine.values), np.array(old.coarse.values)
    after = history(FOR_EACH, PLAIN)
    after.restore(through_bytes(before))
    source.asked.clear()
    reading = after.read(source, NOW + 5 * MINUTE)
    assert after.backlog == 0
    assert not any("avg_over_time" in query for query in source.asked)
    rows = [reading.context.fine.keys.index(key) for key in old.fine.keys]
    np.testing.assert_array_equal(reading.context.fine.values[rows, :-5], fine[:, 5:])
    np.testing.assert_array_equal(reading.context.coarse.values[rows, :-1], coarse[:, 1:])
    assert np.isfinite(reading.context.fine.values).all()


def test_a_restart_after_days_reads_the_days() -> None:
    source, before = plain_source(), history(PLAIN, span=timedelta(days=10))
    before.read(source, NOW)
    after = history(PLAIN, span=timedelta(days=10))
    after.restore(through_bytes(before))
    reading = after.read(source, NOW + timedelta(days=4))
    assert np.isfinite(reading.context.fine.values).all() and np.isfinite(reading.context.coarse.values).all()


def test_a_restart_while_prometheus_is_away_still_knows_the_workloads() -> None:
    source, before = template_source("a", "b"), history(FOR_EACH)
    before.read(source, NOW)
    after = history(FOR_EACH)
    after.restore(through_bytes(before))
    source.broken = SourceError("Prometheus is out of reach at http://x: connection refused")
    reading = after.read(source, NOW + MINUTE)
    assert [work.name for work in reading.workloads] == ["n/a", "n/b"]
    assert np.isfinite(reading.context.fine.values[:, :-1]).all()
    assert codes(reading) == [["stale_data"], ["stale_data"]]


def test_an_unfinished_back_fill_goes_on_after_a_restart() -> None:
    rows = [({"ns": "n", "app": f"{i:03}"}, daily(5, seed=i)) for i in range(1100)]
    source = FakeSource({TEMPLATE: rows})
    spec = dataclasses.replace(FOR_EACH, max_series=2000)
    before = history(spec)
    before.read(source, NOW)
    assert before.backlog
    after = history(spec)
    after.restore(through_bytes(before))
    reading = after.read(source, NOW + INTERVAL)
    while after.backlog:
        reading = after.read(source, NOW + INTERVAL)
    assert np.isfinite(reading.context.fine.values).all() and np.isfinite(reading.context.coarse.values).all()


def test_only_the_newest_chunks_change_between_dumps() -> None:
    source, one = plain_source(), history(PLAIN)
    one.read(source, NOW)
    everything = {chunk.id for chunk in one.dump()}
    one.read(source, NOW + INTERVAL)
    assert list(one.dump(changed_only=True)) == []
    one.read(source, NOW + 2 * MINUTE)
    changed = [chunk.id for chunk in one.dump(changed_only=True)]
    hour = int(NOW.timestamp()) // 3600 * 3600  # 12:00, where a chunk begins: the overlap reaches into the one before
    assert set(changed) == {f"fine/{hour}", f"fine/{hour - 6 * 3600}", f"coarse/{hour - 6 * 3600}"}
    assert len(everything) > 20
    one.read(source, NOW + 9 * MINUTE)
    assert len(list(one.dump(changed_only=True))) <= 4


def test_damaged_and_foreign_chunks_are_left_out() -> None:
    source, before = plain_source(), history(PLAIN)
    before.read(source, NOW)
    data = next(before.dump()).to_bytes()
    for bad in (b"", data[:-3], data[:40] + b"x" + data[41:], b"\0" * 100):
        with pytest.raises(ValueError):
            HistoryChunk.from_bytes(bad)
    after = History([PLAIN], 2 * MINUTE, DAYS)
    after.restore(before.dump())
    reading = after.read(source, NOW)
    assert "left out" in reading.notices[0].detail
    assert np.isfinite(reading.context.fine.values).all()


def test_chunks_of_another_expression_are_not_taken() -> None:
    source, before = plain_source(), history(PLAIN)
    before.read(source, NOW)
    after = history(dataclasses.replace(PLAIN, load="sum(z)"))
    after.restore(before.dump())
    reading = after.read(source, NOW)
    assert codes(reading) == [["no_data"]]
    assert np.isnan(reading.context.fine.values).all()


def test_partial_samples_are_read_again_after_a_restart() -> None:
    source, before = plain_source(), history(PLAIN)
    before.read(source, NOW)
    source.partial = True
    before.read(source, NOW + MINUTE)
    source.partial = False
    after = history(PLAIN)
    after.restore(through_bytes(before))
    reading = after.read(source, NOW + 2 * MINUTE)
    assert reading.context.masked is None
    assert np.isfinite(reading.context.fine.values).all()


def test_reconfiguring_keeps_the_rows_whose_key_did_not_change() -> None:
    source = FakeSource({"sum(a)": [({}, daily(100))], "sum(n)": [({}, daily(3))]})
    one = history(PLAIN, WorkloadSpec("old", "sum(n)"))
    one.read(source, NOW)
    source.asked.clear()
    one.reconfigure([WorkloadSpec("new", "sum(n)"), PLAIN])
    reading = one.read(source, NOW + MINUTE)
    assert [key.workload for key in reading.context.fine.keys] == ["new", "w"]
    assert np.isfinite(reading.context.fine.values).all()
    assert "avg_over_time((sum(a))[299s:60s])" not in source.asked


# --- the rest --------------------------------------------------------------------------------------------------------


def test_no_workloads_at_all_is_a_valid_reading() -> None:
    reading = history().read(FakeSource({}), NOW)
    assert reading.workloads == () and reading.context.fine.values.shape == (0, 2880)
    assert reading.reasons == ()


def test_read_once_gives_the_whole_history_of_an_expression() -> None:
    reading = read_once(plain_source(), "sum(a)", NOW, timedelta(days=28), MINUTE)
    assert np.isfinite(reading.context.coarse.values).all() and reading.context.coarse.values.shape == (1, 28 * 288)


def test_read_once_raises_what_the_source_says() -> None:
    source = plain_source()
    source.broken = SourceError("refused", ReasonCode.UNAUTHORISED)
    with pytest.raises(SourceError, match="refused"):
        read_once(source, "sum(a)", NOW, DAYS, MINUTE)


def test_spans_merge_and_are_cut() -> None:
    assert merged([(5, 7), (0, 3), (3, 4), (6, 9), (2, 2)]) == [(0, 4), (5, 9)]
    assert without([(0, 10)], (3, 5)) == [(0, 3), (5, 10)]
    assert without([(0, 10)], (-1, 20)) == []
    assert without([(0, 2), (4, 6)], (2, 4)) == [(0, 2), (4, 6)]


# --- pods ------------------------------------------------------------------------------------------------------------

PER_POD = "sum by (ns, app, pod) (cpu)"


def pods_of(reading: Reading) -> dict[tuple[str, str], float]:
    keys = reading.context.fine.keys
    rows = [(keys[row].workload, name) for name, row in zip(reading.pods.names, reading.pods.row.tolist(), strict=True)]
    assert all(keys[row].role == "cpu" for row in reading.pods.row.tolist())
    return dict(zip(rows, reading.pods.usage.tolist(), strict=True))


def with_pods(**more: Any) -> WorkloadSpec:
    return dataclasses.replace(
        FOR_EACH, resources=(ResourceSpec("cpu", "sum by (ns, app) (cpu)", per_pod=PER_POD, **more),)
    )


def pods_source(label: str, *pods: tuple[str, str]) -> FakeSource:
    source = template_source("a", "b")
    source.series["sum by (ns, app) (cpu)"] = [({"ns": "n", "app": name}, daily(1)) for name in ("a", "b")]
    source.series[PER_POD] = [
        ({"ns": "n", "app": app, label: pod}, daily(1, seed=i)) for i, (app, pod) in enumerate(pods)
    ]
    return source


def test_pods_are_read_by_one_query_at_the_grid_s_head_and_told_apart_by_their_label() -> None:
    source, one = (
        pods_source("node", ("a", "x"), ("a", "y"), ("b", "x"), ("c", "z")),
        history(with_pods(pod_label="node")),
    )
    reading = one.read(source, NOW + 10 * INTERVAL / 15)
    head = np.array([int(reading.context.fine.origin.timestamp())], dtype=np.int64)
    found = pods_of(reading)
    assert set(found) == {("n/a", "x"), ("n/a", "y"), ("n/b", "x")}
    assert found["n/a", "y"] == pytest.approx(daily(1, seed=1)(head)[0])
    assert source.asked.count(PER_POD) == 1


def test_a_pod_that_is_gone_is_nan_and_after_an_hour_forgotten() -> None:
    source, one = pods_source("pod", ("a", "x"), ("a", "y")), history(with_pods())
    one.read(source, NOW)
    source.series[PER_POD] = source.series[PER_POD][:1]
    soon = pods_of(one.read(source, NOW + MINUTE))
    assert np.isnan(soon["n/a", "y"]) and np.isfinite(soon["n/a", "x"])
    assert set(pods_of(one.read(source, NOW + 62 * MINUTE))) == {("n/a", "x")}


def test_pods_without_their_label_or_too_many_of_them_are_left_out_and_the_latter_said() -> None:
    source, one = pods_source("instance", ("a", "x")), history(with_pods())
    assert pods_of(one.read(source, NOW)) == {}
    source = pods_source("pod", *(("a", f"p{i}") for i in range(1_001)), ("b", "x"))
    reading = history(with_pods()).read(source, NOW)
    assert set(pods_of(reading)) == {("n/b", "x")}
    assert any(one.code is ReasonCode.TOO_MANY_SERIES and "perPod" in one.detail for one in reading.notices)
