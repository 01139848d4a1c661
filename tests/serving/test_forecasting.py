"""Posted values through the real forecasters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.errors import InputError
from models import chain
from serving import forecasting
from serving.schemas import ForecastBody, duration, in_words
from tests.fakes import FakeSource, constant, daily

START = datetime(2026, 3, 2, tzinfo=UTC)


def body(values: list[float | None], step: str = "5m", horizon: str = "1h", **more: object) -> ForecastBody:
    told = {"start": "2026-03-02T00:00:00Z", "step": step, "values": values, "horizon": horizon, **more}
    return ForecastBody.model_validate(told)


def answer(one: ForecastBody) -> dict[str, object]:
    return forecasting.answers([one], [forecasting.posted(one)], chain.shipped())[0]


def test_three_days_of_a_daily_load_are_continued() -> None:
    times = int(START.timestamp()) + 300 * np.arange(3 * 288 + 12, dtype=np.int64)
    curve = daily(100.0, noise=0.01)(times)
    told = answer(body(curve[:-12].tolist(), quantiles=[0.1, 0.5, 0.9]))
    values = np.array(told["values"])
    assert values.shape == (12, 3)
    assert (np.diff(values, axis=1) >= 0).all()
    np.testing.assert_allclose(values[:, 1], curve[-12:], rtol=0.1)
    assert str(told["modelVersion"]).startswith("blend/network-")


def test_a_handful_of_values_has_no_forecast_and_says_why() -> None:
    told = answer(body([1.0, 2.0, None]))
    assert told["values"] == []
    assert told["reason"]["code"] == "history_too_short"  # type: ignore[index]


def test_the_answer_follows_the_unit_of_the_values() -> None:
    times = int(START.timestamp()) + 300 * np.arange(288, dtype=np.int64)
    curve = daily(100.0)(times)
    one, thousand = (np.array(answer(body((factor * curve).tolist()))["values"]) for factor in (1.0, 1_000.0))
    np.testing.assert_allclose(thousand, 1_000 * one, rtol=1e-3)


def test_long_and_short_series_do_not_change_each_other() -> None:
    times = int(START.timestamp()) + 300 * np.arange(600, dtype=np.int64)
    long = body(daily(50.0)(times).tolist())
    end = (START + timedelta(minutes=5 * 599)).isoformat()
    short = body([3.0 + i % 4 for i in range(20)], step="5m").model_copy(
        update={"start": datetime.fromisoformat(end) - timedelta(minutes=95)}
    )
    together = forecasting.answers([long, short], [forecasting.posted(one) for one in (long, short)], chain.shipped())
    assert together == [answer(long), answer(short)]


def test_a_query_needs_one_series_and_a_sane_span() -> None:
    source = FakeSource({"two": [({"a": "1"}, constant(1.0)), ({"a": "2"}, constant(2.0))]})
    ask = {"step": "1m", "horizon": "5m"}
    for query, more, word in (
        ("two", {}, "2 series"),
        ("none", {}, "0 series"),
        ("two", {"start": "2026-03-05T00:00:00Z"}, "points"),
        ("two", {"start": "2025-03-05T00:00:00Z"}, "points"),
        ('{a=~".+"}', {}, "may match everything"),
    ):
        asked = ForecastBody.model_validate({**ask, "query": query, **more})
        with pytest.raises(InputError, match=word):
            forecasting.fetched(asked, source, START)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1h30m", 5_400), ("7d", 604_800), ("0.5h", 1_800), (15, 15), ("15", 15)]
)
def test_durations_are_read(text: object, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)
    assert duration(in_words(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "m", "-5m", "5 apples", None, True, float("nan"), float("inf"), "1e9d", 0, "9" * 40]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="write a duration"):
        duration(text)
