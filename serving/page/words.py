"""Numbers, times and codes as people read them, and the small pieces of markup that every page uses.

Whatever comes from outside goes through `text`; nothing else may put a value into markup.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from forecaster.publication import Publication, WorkloadStatus
from forecaster.reasons import ADVICE, Reason, ReasonCode

MISSING = "–"
# Said beside a forecast that works as meant: no reason to call the workload degraded.
REMARKS = frozenset(
    {
        ReasonCode.HELD,
        ReasonCode.PAUSED,
        ReasonCode.CALIBRATING,
        ReasonCode.CONSTANT_SERIES,
        ReasonCode.LEAD_TIME_UNKNOWN,
        ReasonCode.SKILL_BELOW_BASELINE,
    }
)
FORECASTING, DEGRADED, NO_FORECAST = "forecasting", "degraded", "no forecast"
STATES = (FORECASTING, DEGRADED, NO_FORECAST)

# The rule that had the last word on the floor (forecaster.scaling.decision), in words.
BOUND_BY = {
    "proactive": "the forecast: the peak of the window, at the risk that is asked, decides",
    "scheduled": "the schedule: a window that is active now asks for the most",
    "pinned": "a pin: an operator's override asks for the most",
    "held": "a hold override keeps the floor where it is",
    "hold": "the hold: the floor comes down only after every decision of the hold's window wanted less",
    "dead_band": "the dead band: a step down this small is not worth an event",
    "step_up": "the step limit upwards (maxStepUp within a minute)",
    "step_down": "the step limit downwards (maxStepDown within a minute)",
    "users_own": "the user's own minimum: the floor is never below it",
    "maximum": "the highest floor allowed (the HPA's maximum or the bounds')",
    "scheduled_maximum": "the maximum of a schedule that is active now",
    "pinned_maximum": "the maximum of a pin",
    "missing_data": "old knowledge: samples are missing, so the floor stands until it expires",
    "no_forecast": "old knowledge: there is no forecast now, so the floor stands until it expires",
    "saturated": "saturation: every replica is full, so the floor is at least what the HPA asks for",
    "released": "nobody wants a floor any more: it walks down to the user's own minimum",
    "expired": "nothing: what was known has expired, and the user's own minimum stands",
    "paused": "a pause override: the user's own minimum stands",
    "none": "nothing: no candidate asks for a floor",
}
CANDIDATES = {
    "proactive": "forecast of the window's peak",
    "scheduled": "schedule",
    "pinned": "pin",
    "reactive": "load of this moment, at the HPA's target",
}


def text(value: object) -> str:
    """Escaped for markup and attributes."""
    return escape(str(value), quote=True)


def number(value: float | None) -> str:
    """Three to four digits, with k, M or G: 12.3k."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:,.0f}" if size >= 1_000 else f"{value:.3g}"


def whole(value: float | None) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.0f}"


def percent(share: float | None, digits: int = 1) -> str:
    if share is None or not math.isfinite(share):
        return MISSING
    return f"{100 * share:.{digits}f}".rstrip("0").rstrip(".") + " %" if digits else f"{100 * share:.0f} %"


def span(seconds: float | None) -> str:
    """3 min, 1.5 h, 2 days."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * size or (seconds >= size and unit != "days"):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def moment(at: datetime | None, day: bool = True) -> str:
    """A time in UTC; the script shows it in the browser's zone, with UTC in the title."""
    if at is None:
        return MISSING
    at = utc(at)
    shown = f"{at:%Y-%m-%d %H:%M:%S} UTC" if day else f"{at:%H:%M} UTC"
    return f'<time datetime="{at:%Y-%m-%dT%H:%M:%SZ}" data-show="{"full" if day else "clock"}">{shown}</time>'


def state_of(publication: Publication, one: WorkloadStatus) -> str:
    """forecasting | degraded | no forecast."""
    forecast = publication.forecast
    if forecast is None or forecast.missing[one.row] is not None:
        return NO_FORECAST
    return FORECASTING if all(reason.code in REMARKS for reason in one.reasons) else DEGRADED


def pill(state: str) -> str:
    return f'<span class="pill {state.replace(" ", "-")}">{state}</span>'


def code(reason: Reason) -> str:
    """A code that links to what it means."""
    return f'<a class="code" href="/reasons#{reason.code.value}">{reason.code.value}</a>'


def prose(words: str) -> str:
    """Escaped, with what stands between backticks as code: the list of reasons is written for the docs, too."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(words))


def reason_line(reason: Reason) -> str:
    """The code, and what is particular to this case, or else what it means."""
    return f"{code(reason)} {text(reason.detail) if reason.detail else prose(ADVICE[reason.code][0])}"


def advice(reasons: Iterable[Reason]) -> str:
    """Each reason with what it means and what to do."""
    out = ['<ul class="reasons">']
    for reason in reasons:
        meaning, todo = ADVICE[reason.code]
        detail = f" {text(reason.detail)}." if reason.detail else ""
        out.append(
            f"<li>{code(reason)} <strong>{prose(meaning)}</strong>{detail} <em>What to do:</em> {prose(todo)}</li>"
        )
    return "".join([*out, "</ul>"])


def note(markup: str, kind: str = "") -> str:
    return f'<p class="note {kind}" role="status">{markup}</p>'


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 1) -> str:
    """Cells are markup; those from `numbers_from` on are set as numbers. The first one heads its row."""
    titles = "".join(
        f'<th scope="col"{" class=number" if i >= numbers_from else ""}>{name}</th>' for i, name in enumerate(head)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{' class=number' if i >= numbers_from else ''}>{cell}</td>" for i, cell in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )
