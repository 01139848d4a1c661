"""The tree of settings but for workloads: every key, its meaning, default and range, and the rules between neighbours.

The string under a field is its entry in the generated reference. Knows nothing of files, environment or the place of a
value; `config.py` reads those and `config_values.py` knows how values are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from forecaster import config_values as values
from forecaster.config_values import bad
from forecaster.config_workloads import WorkloadConfig
from forecaster.config_written import FILE, FLAG, FOLDER, NAME, TEXT, ConfigModel, Written, count, duration, not_null
from forecaster.domain import WorkloadSpec
from forecaster.scaling.short_history import LEAST_SECONDS

# --- Prometheus ------------------------------------------------------------------------------------------------------


class BasicAuthConfig(ConfigModel):
    """User and password for Prometheus."""

    username: Annotated[str, Written(values.text, "text")]
    """Name of the user."""
    password_file: Annotated[Path, FILE]
    """File that holds the password, and nothing else. Read for each request, so a rotated password counts at once."""


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise bad("is not a mapping", "{X-Scope-OrgID: tenant}", "")  # the value may be a secret
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise bad("is not the name of a header", "letters, digits and -, such as X-Scope-OrgID", name, (name,))
        if not isinstance(text, str) or not text.strip().isprintable() or not text.isascii():
            raise bad("this header is not a line of ASCII text", "the text in quotes", "", (name,))
    return tuple((name, text.strip()) for name, text in value.items())


_HEADERS_SCHEMA = {"type": "object", "additionalProperties": {"type": "string"}}


class PrometheusConfig(ConfigModel):
    """Where metrics are read. Needed as soon as there are workloads."""

    url: Annotated[str, Written(values.http_url, "http(s)://host[:port][/path]"), Field(repr=False)]
    """Address of Prometheus or of anything that speaks its API (Thanos, Mimir, VictoriaMetrics). A user or password
    may not stand here; it may in the environment variable `FORECASTER_PROMETHEUS__URL`."""
    bearer_token_file: Annotated[Path | None, FILE] = None
    """File that holds a bearer token. Read for each request, so a rotated token counts at once."""
    basic_auth: Annotated[BasicAuthConfig | None, BeforeValidator(not_null)] = None
    """User and password, instead of a bearer token."""
    ca_file: Annotated[Path | None, FILE] = None
    """Certificates (PEM) that the server's one is checked against, instead of those of the system."""
    headers: Annotated[
        tuple[tuple[str, str], ...],
        Written(_headers, "mapping of header to text", _HEADERS_SCHEMA, lambda value: "" if not value else str(value)),
        Field(repr=False),
    ] = ()
    """Headers of each request, such as `X-Scope-OrgID` for a tenant of Mimir. Those that carry a secret only come from
    the environment: `FORECASTER_PROMETHEUS__HEADERS='{X-Api-Key: …}'`."""
    timeout: Annotated[timedelta, duration("100ms", "10m")] = timedelta(seconds=30)
    """Deadline of one query with all its retries. Longer delays the cycle when Prometheus is slow."""
    max_concurrency: Annotated[int, count(1, 64)] = 2
    """Queries in flight at once. More fills history sooner and loads Prometheus more."""

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if self.bearer_token_file is not None and self.basic_auth is not None:
            raise bad("stands beside bearerTokenFile", "only one of them", "", ("basicAuth",))
        return self


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def _namespaces(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise bad("is not a list", "[shop, checkout]")
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            raise bad("is not the name of a namespace", "lower-case letters, digits and -", str(name))
    return tuple(value)


# --- the rest --------------------------------------------------------------------------------------------------------


class KubernetesConfig(ConfigModel):
    """Where HPAs are read: their uid, their bounds, and the user's own minimum while the actuator holds it."""

    read_hpas: Annotated[str, Written(values.choice("auto", "always", "never"), "auto, always or never")] = "auto"
    """`auto`: in a pod with a service account, or where `kubeconfig` is given. Without it HPAs are known from
    kube-state-metrics or `bounds` only, and the actuator writes nothing, for it is told no uid."""
    kubeconfig: Annotated[Path | None, FILE] = None
    """A kubeconfig, instead of the pod's service account."""
    context: Annotated[str | None, Written(values.text, "text")] = None
    """Its context, instead of the current one."""
    namespaces: Annotated[
        tuple[str, ...],
        Written(
            _namespaces,
            "list of namespaces",
            {"type": "array", "items": TEXT},
            lambda value: "" if not value else str(value),
        ),
    ] = ()
    """Only HPAs of these namespaces are read; empty: of all. Set it where the service has a Role and no ClusterRole."""


class WebhookConfig(ConfigModel):
    """An address that is told of incidents."""

    name: Annotated[str, Written(values.short_name, "letters, digits and . _ -", NAME)]
    """What it is called in metrics and logs."""
    url: Annotated[str | None, Written(values.http_url, "http(s)://host[:port][/path]"), Field(repr=False)] = None
    """Address that incidents are posted to. No redirect is followed, and nothing is sent to link-local addresses."""
    url_file: Annotated[Path | None, FILE] = None
    """File that holds the address, instead of `url`, where the address is a secret. Read for each request."""
    secret_file: Annotated[Path | None, FILE] = None
    """File with the key that requests are signed with (HMAC-SHA256, header `webhook-signature`). Read for each request,
    so a rotated key counts at once."""
    least_severity: Annotated[
        str, Written(values.choice("info", "warning", "critical"), "info, warning or critical")
    ] = "info"
    """Incidents below it are not told. `info` tells all, as the alarm budget counts them."""
    timeout: Annotated[timedelta, duration("100ms", "1m")] = timedelta(seconds=10)
    """How long an attempt may wait for an answer."""

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            what = "stands beside url" if self.url is not None else "is missing"
            write = "only one of them" if self.url is not None else "url: http(s)://…, or urlFile: the path of a file"
            raise bad(what, write, "", ("urlFile",) if self.url is not None else ("url",))
        return self


class AlarmsConfig(ConfigModel):
    """How many alarms are too many, and who is told of incidents."""

    false_alarms_per_workload_per_week: Annotated[
        float,
        Written(
            values.quantity(0.001, 100),
            "number, 0.001 to 100",
            {"anyOf": [{"type": "number", "minimum": 0.001, "maximum": 100}, TEXT]},
        ),
    ] = 0.1
    """Alarm budget of one workload over all kinds of alarm. More notices smaller anomalies, and more that are none."""
    webhooks: tuple[WebhookConfig, ...] = ()
    """Addresses that are told when an incident opens, worsens and closes. Another list takes effect after a restart."""
    alertmanager: Annotated[str | None, Written(values.http_url, "http(s)://host[:port][/path]", none="off")] = None
    """Address of an Alertmanager (API v2) that incidents are sent to. While it is set, the rule on incidents in
    `deploy/base/rules.yaml` keeps silent, so that nobody is told twice. Takes effect after a restart."""

    @field_validator("webhooks")
    @classmethod
    def _names_differ(cls, webhooks: tuple[WebhookConfig, ...]) -> tuple[WebhookConfig, ...]:
        names = [one.name for one in webhooks]
        for i, name in enumerate(names):
            if name in names[:i] or name == "alertmanager":
                what = "is the name of another one" if name in names[:i] else "is the name of Alertmanager"
                raise bad(what, "another name", name, (i, "name"))
        return webhooks


class ServerConfig(ConfigModel):
    """Where `forecaster serve` listens. Takes effect after a restart."""

    host: Annotated[str, Written(values.text, "address")] = "127.0.0.1"
    """Address to listen on. Any but a local one needs `auth.tokenFile` or `insecureNoAuth`."""
    port: Annotated[int, count(0, 65_535)] = 8080
    """Port to listen on; 0 takes a free one."""
    insecure_no_auth: Annotated[bool, FLAG] = False
    """Whether to serve other machines without a token. Whoever reaches the port can then read everything."""
    tls_cert_file: Annotated[Path | None, FILE] = None
    """Certificate (PEM) to serve HTTPS with; together with `tlsKeyFile`."""
    tls_key_file: Annotated[Path | None, FILE] = None
    """Its private key."""
    external_url: Annotated[
        str | None, Written(values.http_url, "http(s)://host[:port][/path]", none="`host` and `port` above")
    ] = None
    """Address under which people reach the page, for the links in notifications."""


class AuthConfig(ConfigModel):
    """Who may ask."""

    token_file: Annotated[Path | None, FILE] = None
    """File with the bearer tokens that REST accepts. Read again when it changes."""


class MlflowConfig(ConfigModel):
    """The model registry: where `forecaster retrain` records what it did, and `serve` finds the champion."""

    tracking_uri: Annotated[
        str, Written(values.tracking_uri, "http(s)://HOST or sqlite:///FILE"), Field(repr=False)
    ] = "sqlite:///mlflow.db"
    """Address of the MLflow server, or a file of its own where nothing else writes it: then artifacts lie in the
    folder `mlartifacts` beside it. A password may not stand here; it may in `FORECASTER_MLFLOW__TRACKING_URI`, or as
    MLflow's own `MLFLOW_TRACKING_TOKEN`."""
    poll_interval: Annotated[timedelta, duration("5s", "1d")] = timedelta(minutes=1)
    """How often `serve` asks whether the alias means another version. Shorter notices a promotion or a roll-back
    sooner, and asks MLflow more."""
    cache: Annotated[Path, FOLDER] = Path("forecaster-models")
    """Folder for the artifacts that were fetched: with it a restart needs no MLflow. `forecaster retrain` keeps its
    lock and what it has finished of a job here."""


_MODEL_SCHEMA = {"type": "string", "pattern": values.MODEL_PATTERN}


class Config(ConfigModel):
    """Everything that can be set. `config.load_config` builds it, and checks what needs the text of the file."""

    prometheus: Annotated[PrometheusConfig | None, BeforeValidator(not_null)] = None
    """Where metrics are read. Needed as soon as there are workloads."""
    step: Annotated[timedelta, duration("15s", "1h")] = timedelta(minutes=1)
    """Grid of the forecast, in whole seconds; the model runs once a step. Longer costs Prometheus less and reacts
    later. Another step begins a new calibration."""
    interval: Annotated[timedelta, duration("1s", "1h"), Field(validate_default=True)] = timedelta(seconds=15)
    """How often the newest load is read and decisions are renewed; a step is a whole number of intervals. Shorter
    reacts sooner and queries more."""
    history: Annotated[timedelta, duration("1d", "90d")] = timedelta(days=28)
    """How far back we look. Weekly patterns need two weeks at least, and `scale` two days; more costs memory and one
    longer back-fill."""
    store: Annotated[str, Written(values.store_url, "sqlite:///FILE or postgresql://HOST/NAME"), Field(repr=False)] = (
        "sqlite:///forecaster.db"
    )
    """Where state survives a restart. The default is a file in the working directory; a service names an absolute path
    with four slashes, such as `sqlite:////var/lib/forecaster/forecaster.db`. A password may not stand here; it may in
    the environment variable `FORECASTER_STORE`."""
    model: Annotated[
        str, Written(values.model, "bundled, models:/NAME@ALIAS or the path of a folder", _MODEL_SCHEMA)
    ] = "bundled"
    """The network at the head of the chain of forecasters: `bundled` is the one that ships with this release,
    `models:/forecaster@champion` what that alias means in the registry, always the newest, and a path with a `/` the
    folder of an artifact. Another value takes effect after a restart."""
    mlflow: Annotated[MlflowConfig, BeforeValidator(not_null)] = MlflowConfig()
    """The model registry."""
    kubernetes: KubernetesConfig = KubernetesConfig()
    """Where HPAs are read."""
    workloads: tuple[WorkloadConfig, ...] = ()
    """What is watched. Empty: forecasts of values that are posted by REST."""
    alarms: AlarmsConfig = AlarmsConfig()
    """How many alarms are too many, and who is told of incidents."""
    server: ServerConfig = ServerConfig()
    """Where `forecaster serve` listens."""
    auth: AuthConfig = AuthConfig()
    """Who may ask."""

    @field_validator("step", "interval", "history")
    @classmethod
    def _whole_seconds(cls, value: timedelta) -> timedelta:
        if value % timedelta(seconds=1):
            raise bad("is not a whole number of seconds", values.duration_text(max(_second(value), _second())))
        return value

    @field_validator("interval")
    @classmethod
    def _interval_divides_step(cls, interval: timedelta, info: ValidationInfo) -> timedelta:
        step = info.data.get("step")
        if step is None:  # it is wrong itself
            return interval
        shown = values.duration_text(step)
        if interval > step:
            raise bad(f"is longer than step {shown}", f"at most {shown}")
        if step % interval:
            seconds = int(interval.total_seconds())
            shorter = next(one for one in range(seconds, 0, -1) if step.total_seconds() % one == 0)
            raise bad(f"does not divide step {shown}", values.duration_text(timedelta(seconds=shorter)))
        return interval

    @model_validator(mode="after")
    def _history_for_a_floor(self) -> Self:
        least = timedelta(seconds=LEAST_SECONDS)
        if self.history < least and any(one.scale is not None for one in self.workloads):
            what = "is shorter than the two days of load that a recommendation needs"
            raise bad(what, "2d or more, such as 28d", values.duration_text(self.history), ("history",))
        return self

    def specs(self) -> tuple[WorkloadSpec, ...]:
        """The workloads as the reader and the decision need them."""
        return tuple(one.spec() for one in self.workloads)


def _second(value: timedelta = timedelta(seconds=1)) -> timedelta:
    return value - value % timedelta(seconds=1)
