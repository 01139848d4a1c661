"""The configuration: what loads, what it becomes, and the exact words where it does not load."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from forecaster.config import Config, json_schema, load_config, render_reference
from forecaster.config_environ import variables
from forecaster.config_reference import EXAMPLE
from forecaster.config_values import DURATION_PATTERN, closest, duration_text, parse_duration, quantity_of
from forecaster.domain import Bounds, Mode, ResourceSpec, ScaleSpec, ScheduleWindow, WorkloadSpec
from forecaster.errors import InputError

FAILURES = sorted((Path(__file__).parent / "expectedfailures").glob("*.yaml"))
Load = Callable[..., Config]
SERVICE = "prometheus: {url: http://prometheus:9090}\n"

# DESIGN.md 5 without what later releases bring, its dots filled in.
DESIGN = """\
prometheus: {url: http://prometheus:9090, bearerTokenFile: /run/secrets/prom/token, timeout: 30s, maxConcurrency: 2}
step: 1m
interval: 15s
history: 28d
store: sqlite:////var/lib/forecaster/forecaster.db
model: models:/forecaster@champion
mlflow: {trackingUri: http://mlflow:5000}
workloads:
  - name: checkout
    load: sum(rate(http_requests_total{app="checkout"}[1m]))
    scale:
      hpa: shop/checkout
      capacityPerReplica: 120
      leadTime: auto
      risk: 1%
      mode: recommend
      manage: [minReplicas]
      bounds: {minReplicas: 2, maxReplicas: 40, maxStepUp: 100%, maxStepDown: 20%}
      schedule: [{cron: "0 8 * * 1-5", duration: 10h, timezone: Europe/Berlin, minReplicas: 6}]
    resources:
      - {name: cpu, usage: 'sum(rate(container_cpu_usage_seconds_total{pod=~"checkout-.*"}[1m]))', limit: cpu_limit}
      - {name: memory, usage: memory_bytes}
  - forEach: [namespace, app]
    load: sum by (namespace, app) (rate(http_requests_total[1m]))
    scale: {hpa: "{namespace}/{app}"}
alarms:
  falseAlarmsPerWorkloadPerWeek: 0.1
  webhooks: [{name: on-call, url: "https://hooks.example.com/a", secretFile: /run/secrets/hook/key}]
  alertmanager: http://alertmanager:9093
server: {host: 0.0.0.0, port: 9000, insecureNoAuth: true}
auth: {tokenFile: /run/secrets/tokens}
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def of(text: str, **environ: str) -> Config:
        file = tmp_path / "forecaster.yaml"
        file.write_text(text, encoding="utf-8")
        return load_config(file, environ)

    return of


def refusal(load: Load, text: str, **environ: str) -> list[str]:
    """The lines of what is said, without the folder."""
    with pytest.raises(InputError) as caught:
        load(text, **environ)
    return [re.sub(r"^\S*/(?=forecaster\.yaml)", "", line) for line in str(caught.value).split("\n")]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FAILURES, ids=lambda file: file.stem)
def test_a_bad_file_is_refused_in_these_words(file: Path) -> None:
    expected = re.findall(r"^# expect: (.*)$", file.read_text(), re.MULTILINE)
    with pytest.raises(InputError) as caught:
        load_config(file, {})
    assert [line.removeprefix(f"{file}:") for line in str(caught.value).split("\n")] == expected
    assert not any("s3cret" in line for line in expected)


def test_at_most_ten_problems_are_told(load: Load) -> None:
    lines = refusal(load, "".join(f"key{n}: 1\n" for n in range(15)))
    assert len(lines) == 11
    assert lines[9].startswith("forecaster.yaml:10:1: key9:") and lines[10] == "forecaster.yaml: and 5 more like these"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"step: 1m\nstore: \xff", "f.yaml:2:8: the byte 0xff is not UTF-8: save the file as UTF-8"),
        ("step: 1m".encode("utf-16"), "f.yaml:1:1: the byte 0xff is not UTF-8: save the file as UTF-8"),
        (b"#" * (33 * 2**20), "f.yaml: the file is larger than 32 MiB: write templates (forEach)"),
    ],
    ids=["not UTF-8", "UTF-16", "too large"],
)
def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_config(file, {})
    assert str(caught.value) == f"{tmp_path}/{words}"


def test_a_missing_file_and_a_directory_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no such file: name the configuration with --config FILE$"):
        load_config(tmp_path / "absent.yaml", {})
    with pytest.raises(InputError, match=r"this is a directory: name the file in it$"):
        load_config(tmp_path, {})


# --- what loads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{}", "workloads: []", "\ufeffstep: 1m", "# nothing\n"])
def test_nothing_is_needed_without_workloads(load: Load, text: str) -> None:
    config = load(text)
    assert config == Config() and config.prometheus is None and config.specs() == ()


def test_the_defaults(load: Load) -> None:
    config = load(SERVICE + "workloads: [{name: a, load: up, scale: {hpa: b/c}}, {forEach: [x, y], load: up}]")
    assert (config.step, config.interval, config.history) == (
        timedelta(minutes=1),
        timedelta(seconds=15),
        timedelta(days=28),
    )
    assert (config.store, config.model) == ("sqlite:///forecaster.db", "bundled")
    assert (config.server.host, config.server.port, config.server.insecure_no_auth) == ("127.0.0.1", 8080, False)
    assert config.alarms.false_alarms_per_workload_per_week == 0.1
    assert config.alarms.webhooks == () and config.alarms.alertmanager is None
    assert config.prometheus.timeout == timedelta(seconds=30) and config.prometheus.max_concurrency == 2
    assert config.specs() == (
        WorkloadSpec("a", "up", scale=ScaleSpec("b", "c")),
        WorkloadSpec("{x}/{y}", "up", for_each=("x", "y"), max_series=1000),
    )


def test_the_example_of_the_design_becomes_specs(load: Load) -> None:
    config = load(DESIGN)
    checkout, template = config.specs()
    assert checkout.scale == ScaleSpec(
        "shop",
        "checkout",
        capacity_per_replica=120.0,
        bounds=Bounds(2, 40, 1.0, 0.2),
        schedule=(ScheduleWindow("0 8 * * 1-5", timedelta(hours=10), "Europe/Berlin", 6),),
    )
    assert [resource.name for resource in checkout.resources] == ["cpu", "memory"]
    assert checkout.resources[1] == ResourceSpec("memory", "memory_bytes", None)
    assert template.for_each == ("namespace", "app") and template.scale == ScaleSpec("{namespace}", "{app}")
    assert config.auth.token_file == Path("/run/secrets/tokens") and config.server.host == "0.0.0.0"
    assert config.alarms.alertmanager == "http://alertmanager:9093"
    (hook,) = config.alarms.webhooks
    assert (hook.name, hook.url, hook.least_severity) == ("on-call", "https://hooks.example.com/a", "info")
    assert hook.timeout == timedelta(seconds=10) and "hooks.example.com" not in repr(config)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("capacityPerReplica: 1.5k", "capacity_per_replica", 1500.0),
        ("capacityPerReplica: 250m", "capacity_per_replica", 0.25),
        ("capacityPerReplica: learned", "capacity_per_replica", None),
        ("capacityPerReplica: max(x)", "capacity_query", "max(x)"),
        ("leadTime: 180s", "lead_time", timedelta(minutes=3)),
        ("leadTime: auto", "lead_time", None),
        ("risk: 0.005", "risk", 0.005),
        ("risk: 0.5%", "risk", 0.005),
        ("mode: apply", "mode", Mode.APPLY),
        ("allowNewPeak: true", "allow_new_peak", True),
        ("target: 60%", "target_ratio", 0.6),
        ("hold: 5m", "hold", timedelta(minutes=5)),
        ("validFor: 10m", "valid_for", timedelta(minutes=10)),
        ("bounds: {maxStepDown: 50%}", "bounds", Bounds(max_step_down_ratio=0.5)),
        (
            'schedule: [{cron: "0 8 * * *", duration: 1h, maxReplicas: 3}]',
            "schedule",
            (ScheduleWindow("0 8 * * *", timedelta(hours=1), "Asia/Tokyo", None, 3),),
        ),
    ],
)
def test_a_setting_reaches_the_spec(load: Load, line: str, field: str, value: object) -> None:
    head = "workloads:\n  - name: a\n    load: up\n    timezone: Asia/Tokyo\n    scale:\n      hpa: b/c\n      "
    assert getattr(load(SERVICE + head + line).specs()[0].scale, field) == value


def test_a_limit_of_a_template_may_be_one_number_for_all(load: Load) -> None:
    resource = "{name: m, usage: m_bytes, limit: max(m_limit)}"
    config = load(SERVICE + f"workloads: [{{forEach: [a], load: up, resources: [{resource}]}}]")
    assert config.specs()[0].resources[0].limit == "max(m_limit)"


def test_several_workloads_may_share_an_hpa(load: Load) -> None:
    config = load(SERVICE + "workloads: [{forEach: [a], load: up, scale: {hpa: shop/checkout}}]")
    assert config.specs()[0].scale.hpa == "checkout"


def test_headers_and_credentials_are_read_as_places(load: Load) -> None:
    text = "prometheus: {url: https://p/x/, headers: {X-Scope-OrgID: a}, basicAuth: {username: u, passwordFile: f}}"
    prometheus = load(text).prometheus
    assert (prometheus.url, dict(prometheus.headers)) == ("https://p/x", {"X-Scope-OrgID": "a"})
    assert prometheus.basic_auth.password_file == Path("f")


def test_the_same_text_is_the_same_configuration(load: Load) -> None:
    one, other = load(DESIGN), load("# a comment\n" + DESIGN)
    assert one == other and hash(one) == hash(other)
    assert one != load(DESIGN.replace("risk: 1%", "risk: 2%"))


def test_it_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load("").step = timedelta(minutes=2)


@pytest.mark.slow
def test_ten_thousand_workloads_load_in_seconds(load: Load) -> None:
    entry = (
        '  - name: app-{n}\n    load: sum(rate(http_requests_total{{app="app-{n}"}}[1m]))\n    scale:\n'
        "      hpa: shop/app-{n}\n      capacityPerReplica: 120\n"
        '      schedule: [{{cron: "0 8 * * 1-5", duration: 10h, minReplicas: 6}}]\n'
    )
    text = SERVICE + "workloads:\n" + "".join(entry.format(n=n) for n in range(10_000))
    began = time.perf_counter()
    assert len(load(text).specs()) == 10_000
    assert time.perf_counter() - began < 15  # 2 s on an idle machine


# --- the environment -------------------------------------------------------------------------------------------------


def test_the_environment_overrides_the_file(load: Load) -> None:
    config = load(
        DESIGN,
        FORECASTER_STEP="30s",
        FORECASTER_SERVER__PORT="9999",
        FORECASTER_SERVER__INSECURE_NO_AUTH="false",
        FORECASTER_PROMETHEUS__URL="http://other:9090",
        FORECASTER_ALARMS__FALSE_ALARMS_PER_WORKLOAD_PER_WEEK="0.5",
        FORECASTER_PROMETHEUS__HEADERS="{X-Api-Key: s3cret}",
    )
    assert config.step == timedelta(seconds=30) and config.server.port == 9999 and not config.server.insecure_no_auth
    assert config.prometheus.url == "http://other:9090" and config.prometheus.max_concurrency == 2
    assert config.alarms.false_alarms_per_workload_per_week == 0.5
    assert config.prometheus.headers == (("X-Api-Key", "s3cret"),) and "s3cret" not in repr(config)


def test_the_environment_alone_can_name_prometheus(load: Load) -> None:
    config = load("workloads: [{name: a, load: up}]", FORECASTER_PROMETHEUS__URL="http://prometheus:9090")
    assert config.prometheus.url == "http://prometheus:9090"


def test_a_password_may_come_from_the_environment_and_is_not_shown(load: Load) -> None:
    config = load(
        "", FORECASTER_PROMETHEUS__URL="http://me:s3cret@p:9090", FORECASTER_STORE="postgresql://me:s3cret@db/x"
    )
    assert "s3cret" in config.prometheus.url and "s3cret" in config.store
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("FORECASTER_STEP", "1", "FORECASTER_STEP: 1 has no unit: write 1s, 1m or 1h"),
        (
            "FORECASTER_SERVER__PORT",
            "x",
            "FORECASTER_SERVER__PORT: x is not a whole number: write a whole number from 0 to 65535",
        ),
        ("FORECASTER_STORE", "", 'FORECASTER_STORE: "" is empty: write a text, or unset it'),
        (
            "FORECASTER_SERVER_PORT",
            "80",
            "FORECASTER_SERVER_PORT: this variable is not known: write FORECASTER_SERVER__PORT",
        ),
        ("FORECASTER_STROE", "x", "FORECASTER_STROE: this variable is not known: write FORECASTER_STORE"),
        ("FORECASTER_PORT", "80", "FORECASTER_PORT: this variable is not known: write FORECASTER_SERVER__PORT"),
        (
            "FORECASTER_WORKLOADS",
            "[]",
            "FORECASTER_WORKLOADS: this variable is not known: write workloads in the file",
        ),
        (
            "FORECASTER_PROMETHEUS__HEADERS",
            "Bearer s3cret",
            "FORECASTER_PROMETHEUS__HEADERS: is not a mapping: write {X-Scope-OrgID: tenant}",
        ),
        (
            "FORECASTER_PROMETHEUS__URL",
            "ftp://me:s3cret@p",
            "FORECASTER_PROMETHEUS__URL: ftp://me:***@p has the scheme 'ftp': write http://… or https://…",
        ),
    ],
)
def test_a_bad_variable_is_refused_by_its_name(load: Load, name: str, value: str, line: str) -> None:
    assert refusal(load, "prometheus: {url: http://p}", **{name: value}) == [line]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FORECASTER_CONFIG", "f.yaml"),
        ("FORECASTER_TOKEN", "x"),
        ("FORECASTER_URL", "http://x"),
        ("FORECASTER_HPA_VECTORS", "x"),
        ("FORECASTER_APISERVER_TRANSCRIPTS", "x"),
        ("FORECASTER_SERVICE_HOST", "10.0.0.1"),
        ("FORECASTER_PORT", "tcp://10.0.0.1:8080"),
        ("FORECASTER_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("FORECASTER_API_SERVICE_PORT_HTTP", "8080"),
        ("FORECASTER_API_PORT", "tcp://10.0.0.1:8080"),
        ("HOME", "/"),
    ],
)
def test_variables_of_others_are_left_alone(load: Load, name: str, value: str) -> None:
    assert load("", **{name: value}) == Config()


def test_problems_of_file_and_environment_come_together(load: Load) -> None:
    lines = refusal(load, "model: other\n", FORECASTER_STEP="1x")
    assert [line.split(": ")[0] for line in lines] == ["forecaster.yaml:1:8", "FORECASTER_STEP"]


def test_the_file_is_not_blamed_for_what_a_variable_says(load: Load) -> None:
    assert refusal(load, "step: 1m\n", FORECASTER_INTERVAL="2m") == [
        "FORECASTER_INTERVAL: 2m is longer than step 1m: write at most 1m"
    ]


# --- values ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**12))
def test_a_duration_reads_back_as_it_was_written(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(duration_text(value)) == value
    assert re.fullmatch(DURATION_PATTERN, duration_text(value))


@pytest.mark.parametrize(
    ("text", "number"),
    [("120", 120.0), ("1.5k", 1500.0), ("250m", 0.25), ("2Gi", 2.0**31), ("1e3", 1000.0), ("x", None)],
)
def test_quantities_are_those_of_kubernetes(text: str, number: float | None) -> None:
    assert quantity_of(text) == number


def test_the_closest_key_ignores_case_and_underscores() -> None:
    assert closest("for_each", ["forEach", "load"]) == "forEach"
    assert closest("colour", ["forEach", "load"]) is None


# --- schema and reference --------------------------------------------------------------------------------------------


def test_the_schema_takes_what_loads() -> None:
    schema = jsonschema_rs.Draft202012Validator(json_schema())
    for text in (DESIGN, EXAMPLE, "{}"):
        schema.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "name", ["unknown_key", "typo_in_key", "wrong_unit", "missing_load", "unknown_mode", "model_registry", "no_unit"]
)
def test_the_schema_refuses_bad_form(name: str) -> None:
    file = next(one for one in FAILURES if one.stem == name)
    assert not jsonschema_rs.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(file.read_text()))


def test_the_schema_is_sound_and_shipped() -> None:
    jsonschema_rs.meta.validate(json_schema())
    shipped = Path(json_schema.__code__.co_filename).with_name("config.schema.json")
    assert json.loads(shipped.read_text()) == json_schema()


def test_the_example_of_the_reference_loads(load: Load) -> None:
    page = render_reference()
    assert EXAMPLE in page and len(load(EXAMPLE).specs()) == 2


def test_each_setting_has_an_entry_in_reference_and_schema() -> None:
    page, schema = render_reference(), json_schema()
    for section in (schema, *schema["$defs"].values()):
        for key, entry in section["properties"].items():
            assert entry["description"].endswith("."), key
            assert f"| `{key}` |" in page


def test_each_single_setting_has_a_variable() -> None:
    assert {
        "FORECASTER_STEP",
        "FORECASTER_PROMETHEUS__BASIC_AUTH__PASSWORD_FILE",
        "FORECASTER_AUTH__TOKEN_FILE",
    } <= set(variables())
    assert not any("WORKLOADS" in name for name in variables())
