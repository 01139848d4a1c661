"""The command line: verbs, their options, and the wiring behind them.

Each verb imports only what it needs, so `--help` answers at once and the base install suffices for it. Exit codes: 0,
1 (ran, found a problem), 2 (bad input: one clear line on stderr).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from forecaster.errors import ForecasterError, InputError

if TYPE_CHECKING:
    from serving.whatif import Wanted

DEFAULT_URL = "http://127.0.0.1:8080"
_EXTRAS = {  # module -> the extra that brings it
    "matplotlib": "plot",
    "torch": "torch",
    "onnxruntime": "onnx",
    "mlflow": "registry",
    "psycopg": "postgres",
}

app = typer.Typer(
    name="forecaster",
    help="Predictive anomaly detection and forecasting for Kubernetes, on the Prometheus you have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
events_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
app.add_typer(events_app, name="events", help="Lists and marks events, overrides and feedback on incidents.")


class Role(StrEnum):
    """What a process does."""

    ALL = "all"
    LOOP = "loop"
    API = "api"


class Part(StrEnum):
    """Which part of each series is scored."""

    TEST = "test"
    TUNE = "tune"


class Metric(StrEnum):
    """How an HPA is given an external metric."""

    KEDA = "keda"
    ADAPTER = "adapter"
    HPA = "hpa"


class Stamp(StrEnum):
    """What the time stamp of a row in a file labels."""

    START = "start"
    END = "end"


ConfigOption = Annotated[
    Path, typer.Option("--config", envvar="FORECASTER_CONFIG", help="The configuration file.", metavar="FILE")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
PrometheusOption = Annotated[str | None, typer.Option(help="Address of Prometheus.", metavar="URL")]
QueryOption = Annotated[str | None, typer.Option(help="PromQL that gives one series.", metavar="PROMQL")]
FileOption = Annotated[
    Path | None, typer.Option("--data", help="A tidy file, series_id,timestamp,value: parquet or CSV.", metavar="FILE")
]
ReaderOption = Annotated[
    Path | None,
    typer.Option("--config", help="Takes Prometheus, its credentials and the step from here.", metavar="FILE"),
]
SeriesOption = Annotated[str | None, typer.Option(help="One series of the file.", metavar="ID")]
StepOption = Annotated[str | None, typer.Option(help="Grid; 1m, or what the file has.")]
HistoryOption = Annotated[str, typer.Option(help="How much of the past is read from Prometheus.")]
UrlOption = Annotated[
    str, typer.Option("--url", envvar="FORECASTER_URL", help="Address of a running service.", metavar="URL")
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", help="File with a bearer token; else FORECASTER_TOKEN in the environment.", metavar="FILE"
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed

        typer.echo(f"forecaster {installed('forecaster-k8s')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: ConfigOption = Path("forecaster.yaml"),
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of server.host.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, instead of server.port.", min=0, max=65535)
    ] = None,
    role: Annotated[Role, typer.Option(help="all; loop: only the cycle and what reads; api: no cycle.")] = Role.ALL,
    insecure_no_auth: Annotated[
        bool, typer.Option("--insecure-no-auth", help="Serve beyond loopback without tokens.")
    ] = False,
    set_aside_damaged_store: Annotated[
        bool, typer.Option("--set-aside-damaged-store", help="Rename a damaged store and begin a new one.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """The service: reads Prometheus, forecasts, decides, and publishes over REST and /metrics."""
    import logging

    from serving import server

    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("urllib3", "stamina"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server.serve(config, host, port, role.value, insecure_no_auth, set_aside_damaged_store)


@app.command()
def demo(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8080,
    speed: Annotated[
        float | None, typer.Option(help="Simulated seconds in a second; 360, headless as fast as it goes.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of traffic and start-up times.")] = 0,
    duration: Annotated[str | None, typer.Option(help="Ends after so long: 30s, 5m.")] = None,
    simulate: Annotated[str | None, typer.Option(help="Ends after so much simulated time: 6h, 7d.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="No page: runs, and prints the result.")] = False,
    as_json: JsonOption = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Opens the page, if there is a display.")] = (
        True
    ),
    insecure_no_auth: Annotated[bool, typer.Option("--insecure-no-auth", help="Serve beyond loopback.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """The whole product on a simulated cluster, faster than real time, with nothing else installed."""
    import logging

    from serving.demo import run

    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asked = run.checked(
        run.Asked(
            seed=seed,
            speed=speed,
            duration=run.duration_of(duration, "--duration"),
            simulate=run.duration_of(simulate, "--simulate"),
            host=host,
            port=port,
            insecure_no_auth=insecure_no_auth,
            browser=browser,
        )
    )
    if as_json and not headless:
        raise InputError("--json: only with --headless")
    if not headless:
        raise typer.Exit(0 if run.serve(asked, lambda text: typer.echo(text)) else 1)
    told = run.headless(asked, _progress("simulating"))
    typer.echo(run.as_json(told) if as_json else run.as_text(told))
    raise typer.Exit(1 if told["failedCycles"] else 0)


@app.command()
def actuate(
    url: UrlOption = DEFAULT_URL,
    token_file: TokenOption = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write. Without it: a dry run that says what it would.")
    ] = False,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Only HPAs of this namespace; may be repeated.", metavar="NAME")
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Instead of KUBECONFIG or the pod's service account.", metavar="FILE")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.", metavar="NAME")] = None,
    own_namespace: Annotated[
        str | None, typer.Option(help="Where our Lease and ConfigMap are; that of the credentials.", metavar="NAME")
    ] = None,
    max_added: Annotated[
        int, typer.Option(help="Replicas that floors may add to users' own minima, over all HPAs.", min=0)
    ] = 500,
    max_step_down: Annotated[
        float, typer.Option(help="Share of a floor taken back a minute once recommendations end.", min=0.01, max=1.0)
    ] = 0.2,
    metrics_host: Annotated[str, typer.Option(help="Address of /metrics, /healthz, /readyz.")] = "127.0.0.1",
    metrics_port: Annotated[int, typer.Option(help="Its port; -1: none.", min=-1, max=65535)] = 9095,
    restore: Annotated[bool, typer.Option("--restore", help="Give every HPA back, and end. Needs no service.")] = False,
    if_stale: Annotated[
        bool, typer.Option("--if-stale", help="With --restore: only if no actuator renews its lease.")
    ] = False,
    only_targets: Annotated[
        bool, typer.Option("--only-targets", help="With --restore: only CPU targets that we raised; floors stay.")
    ] = False,
    stale_after: Annotated[str, typer.Option(help="With --if-stale: how long it must be silent.")] = "5m",
    as_json: Annotated[bool, typer.Option("--json", help="With --restore: machine-readable output.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """The actuator: writes recommended floors to HPAs, and gives them back when recommendations end."""
    import logging

    from serving.actuator import wiring
    from serving.actuator.policy import Rules
    from serving.actuator.run import Settings

    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    cluster = wiring.Cluster(None if kubeconfig is None else str(kubeconfig), context, own_namespace)
    scopes = tuple(dict.fromkeys(namespace)) if namespace else (None,)
    if (if_stale or only_targets or as_json) and not restore:
        raise InputError("--if-stale, --only-targets and --json go with --restore")
    if restore:
        code, text = wiring.restore(
            cluster, scopes, if_stale, only_targets, wiring.duration("--stale-after", stale_after), as_json, os.environ
        )
        typer.echo(text)
        raise typer.Exit(code)
    settings = Settings(apply=apply, rules=Rules(max_step_down=max_step_down), most_added=max_added, scopes=scopes)
    asked = wiring.Asked(
        url=url,
        token_file=None if token_file is None else str(token_file),
        cluster=cluster,
        settings=settings,
        host=metrics_host,
        port=metrics_port,
        verbose=verbose,
    )
    wiring.become(asked, os.environ)


@app.command()
def check(
    config: ConfigOption = Path("forecaster.yaml"),
    as_json: JsonOption = False,
    timeout: Annotated[float, typer.Option(help="Seconds after which reading history stops.", min=1)] = 60.0,
) -> None:
    """Validates the configuration and says per workload what was found and what will run."""
    from forecaster.config import load_config
    from serving import checking

    report = checking.check(load_config(config, os.environ), timeout, _progress("reading history"))
    typer.echo(checking.as_json(report) if as_json else checking.as_text(report, sys.stdout.isatty()))
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def forecast(
    prometheus: PrometheusOption = None,
    query: QueryOption = None,
    data: FileOption = None,
    config: ReaderOption = None,
    series: SeriesOption = None,
    horizon: Annotated[str, typer.Option(help="How far: 1h, 24h, 7d.")] = "24h",
    step: StepOption = None,
    history: HistoryOption = "14d",
    quantiles: Annotated[str, typer.Option(help="Levels, separated by commas.")] = "0.1,0.5,0.9",
    timestamps: Annotated[Stamp, typer.Option(help="Whether a file's stamp is the start or end of an interval.")] = (
        Stamp.END
    ),
    png: Annotated[Path | None, typer.Option(help="Writes a picture.", metavar="FILE")] = None,
    as_json: JsonOption = False,
) -> None:
    """One forecast, of a PromQL expression or of a file: drawn in the terminal, as a picture or as JSON."""
    from serving import drawing, foretelling

    asked = foretelling.Asked(
        prometheus=prometheus,
        query=query,
        data=data,
        config=config,
        series=series,
        horizon=horizon,
        step=step,
        history=history,
        quantiles=quantiles,
        stamps_end=timestamps is Stamp.END,
    )
    told = foretelling.foretell(asked, datetime.now(UTC), os.environ)
    if png is not None:
        drawing.picture(told, png)
    if as_json:
        typer.echo(foretelling.as_json(told))
    else:
        width, height = _terminal()
        typer.echo(drawing.terminal(told, width, height, sys.stdout.isatty()))
        if png is not None:
            typer.echo(f"wrote {png}")
    raise typer.Exit(0 if all(one.answer["values"] for one in told) else 1)


@app.command()
def detect(
    prometheus: PrometheusOption = None,
    query: QueryOption = None,
    data: FileOption = None,
    config: ReaderOption = None,
    series: SeriesOption = None,
    budget: Annotated[float, typer.Option(help="False alarms allowed per series and week.")] = 0.1,
    step: StepOption = None,
    history: HistoryOption = "14d",
    timestamps: Annotated[Stamp, typer.Option(help="Whether a file's stamp is the start or end of an interval.")] = (
        Stamp.END
    ),
    parquet: Annotated[Path | None, typer.Option(help="Writes a row for each sample.", metavar="FILE")] = None,
    as_json: JsonOption = False,
) -> None:
    """Anomalies of a PromQL expression or of a file: each sample is judged by what came before it."""
    from serving import detecting, foretelling

    asked = foretelling.Asked(
        prometheus=prometheus,
        query=query,
        data=data,
        config=config,
        series=series,
        horizon="",
        step=step,
        history=history,
        quantiles="",
        stamps_end=timestamps is Stamp.END,
    )
    stages = _stages()
    found = detecting.detect(asked, budget, datetime.now(UTC), os.environ, lambda share: stages("judging", share))
    if parquet is not None:
        detecting.write_parquet(found, parquet)
    typer.echo(detecting.as_json(found, budget) if as_json else detecting.as_text(found))
    raise typer.Exit(0 if any(one.is_scored for one in found) else 1)


@app.command()
def whatif(
    data: Annotated[
        Path | None, typer.Option("--data", help="A tidy file, or a folder of them: parquet or CSV.", metavar="PATH")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Reads the configured workloads from Prometheus instead.", metavar="FILE")
    ] = None,
    start_up: Annotated[
        str | None, typer.Option("--startup", help="Seconds from creation to ready: 180, or 60,180,600.")
    ] = None,
    capacity: Annotated[
        float | None, typer.Option(help="Load at which one replica is full; else --replicas says the size.")
    ] = None,
    replicas: Annotated[
        int, typer.Option(help="Full replicas that the 99.5 % quantile of the load fills.", min=1, max=10_000)
    ] = 28,
    min_replicas: Annotated[int, typer.Option(help="Of the user's HPA.")] = 2,
    max_replicas: Annotated[int, typer.Option(help="Of the user's HPA.")] = 200,
    target: Annotated[int, typer.Option(help="Target of the user's HPA, per cent.")] = 70,
    stabilization: Annotated[
        int, typer.Option(help="Downscale stabilization of the user's HPA, seconds.", min=0)
    ] = 300,
    hpa: Annotated[
        Path | None,
        typer.Option(
            help="Manifest of the user's HPA, with its behavior: YAML or JSON, one or a List.", metavar="FILE"
        ),
    ] = None,
    timestamps: Annotated[
        Stamp, typer.Option(help="Whether a file's stamp is the start or end of an interval.")
    ] = Stamp.START,
    every: Annotated[
        bool, typer.Option("--all", help="Every series of the folder, also where the yardstick has a list of them.")
    ] = False,
    only: Annotated[str, typer.Option(help="Series with this in their name.", metavar="TEXT")] = "",
    price: Annotated[float | None, typer.Option(help="Of a replica-hour, to show money.", min=0)] = None,
    served: Annotated[
        bool, typer.Option("--served", help="Also plays the risk dial on load as it was served, with retries: minutes.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Writes a page that needs nothing else.", metavar="FILE")] = None,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Also on the log of `serve`: what it said beside what is promised.")
    ] = False,
    faults: Annotated[
        bool,
        typer.Option("--faults", help="Instead: a failing forecaster beside the HPA alone. Exit 1: a bound broke."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What a past would have cost and been short of: HPA as it is, tuned, ours and perfect foresight."""
    import json

    from forecaster.scaling.whatif import report
    from forecaster.scaling.whatif.shadow import Shadow
    from serving import whatif as receipts

    if (data is None) == (config is None):
        raise InputError("whatif: write --data PATH, or --config FILE for Prometheus")
    if recorded and config is None:
        raise InputError("--recorded: the log stands in the store of a configuration: write --config FILE")
    if faults and (recorded or html is not None or price is not None):
        raise InputError("--faults: prints a table of its own: leave out --recorded, --html and --price")
    from serving import hpa_manifest

    start_ups = () if start_up is None else receipts.start_ups_of(start_up)
    shadows: tuple[Shadow, ...] = ()
    manifests = [] if hpa is None else hpa_manifest.read(hpa)
    if data is not None:
        if len(manifests) > 1:
            raise InputError(f"--hpa: {hpa} holds {len(manifests)} HPAs: write the one that scales the load of --data")
        own = manifests[0].hpa if manifests else None
        size = receipts.Size(capacity, replicas, min_replicas, max_replicas, target, float(stabilization), own)
        ends = timestamps is Stamp.END
        wanted = receipts.from_files(data, ends, start_ups or (180,), size, every, only)
    else:
        from forecaster.config import load_config
        from serving.whatif_prometheus import from_prometheus

        assert config is not None
        loaded = load_config(config, os.environ)
        wanted = from_prometheus(loaded, datetime.now(UTC), start_ups, manifests, os.environ)
        if recorded:
            from serving import whatif_recorded

            shadows = whatif_recorded.shadows(loaded.store, wanted)
    if faults:
        _faults(wanted, as_json)
    told = receipts.told(
        wanted, price=price, detailed=html is not None, served=served, beside=True, done=_progress("replaying")
    )
    told = replace(told, shadows=shadows)
    if html is not None:
        from serving import whatif_page

        whatif_page.write(told, html)
    typer.echo(json.dumps(report.as_dict(told)) if as_json else report.as_text(told))
    raise typer.Exit(1 if any(one.unfit for one in (told.recorded or {}).values()) else 0)


def _faults(wanted: Wanted, as_json: bool) -> NoReturn:
    import json

    from forecaster.scaling.whatif import faults_report
    from serving import whatif_faults

    found = whatif_faults.outcomes(wanted, _progress("breaking"))
    said = faults_report.as_dict if as_json else faults_report.as_text
    told = said(found, wanted.left_out)
    typer.echo(json.dumps(told) if as_json else told)
    raise typer.Exit(0 if all(one.kept for one in faults_report.lines(found)) else 1)


@app.command()
def generate(
    kind: Annotated[Metric, typer.Argument(help="keda: a ScaledObject; adapter: prometheus-adapter's rule; hpa.")],
    workload: Annotated[str, typer.Option(help="Name of the workload.", metavar="NAME")],
    config: ConfigOption = Path("forecaster.yaml"),
    hpa: Annotated[
        Path | None, typer.Option(help="The HPA (kubectl get hpa -o yaml), where it cannot be read.", metavar="FILE")
    ] = None,
    scale_target: Annotated[
        str | None, typer.Option(help="What it scales, where no HPA can be read.", metavar="KIND/NAME")
    ] = None,
    capacity: Annotated[
        float | None, typer.Option(help="Load at which one replica is full, instead of capacityPerReplica.")
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option(help="Prometheus as KEDA reaches it, instead of prometheus.url.", metavar="URL")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Lets the load use 90 % of capacity while the forecast counts.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """An external metric for an HPA: our value while it counts, the reactive rule always. Prints, writes nothing."""
    from forecaster.config import load_config
    from serving import generating

    asked = generating.Asked(kind.value, workload, hpa, scale_target, capacity, prometheus, save)
    made = generating.generate(load_config(config, os.environ), asked, os.environ)
    typer.echo(generating.as_json(made) if as_json else generating.as_yaml(made))


@app.command()
def explain(
    workload: Annotated[str, typer.Argument(help="Name of the workload whose decision is explained.")] = "",
    incident: Annotated[str, typer.Option(help="Explains this incident instead.", metavar="ID")] = "",
    url: UrlOption = DEFAULT_URL,
    token_file: TokenOption = None,
    store: Annotated[
        str | None, typer.Option(help="Reads this store instead of asking a service: sqlite:///FILE.", metavar="URL")
    ] = None,
    at: Annotated[str, typer.Option(help="RFC 3339: the newest decision at or before it.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Every number of a decision or an incident, recomputed from what is stored. Exit 1 where one differs."""
    from serving import explaining

    if bool(workload) == bool(incident):
        raise InputError("name what to explain: a workload, or --incident ID (`forecaster events` lists them)")
    if incident:
        from serving import explaining_incidents as incidents

        if store is not None:
            explained = incidents.from_store(store, incident)
        else:
            explained = incidents.from_service(_client(url, token_file), incident)
        typer.echo(incidents.as_json(explained) if as_json else incidents.as_text(explained))
        raise typer.Exit(0 if explained.same else 1)
    stored = (
        explaining.from_store(store, workload, at)
        if store is not None
        else explaining.from_service(_client(url, token_file), workload, at)
    )
    account = explaining.account(stored)
    typer.echo(explaining.as_json(account) if as_json else explaining.as_text(account))
    raise typer.Exit(0 if account.same else 1)


@app.command()
def benchmark(
    data: Annotated[Path, typer.Option("--data", help="Folder of tidy files, or one: parquet or CSV.", metavar="DIR")],
    part: Annotated[Part, typer.Option(help="Scored: the last 30 %, or what lies between 30 and 60 %.")] = Part.TEST,
    timestamps: Annotated[
        Stamp, typer.Option(help="Whether a stamp is the start or end of an interval.")
    ] = Stamp.START,
    origins: Annotated[
        int, typer.Option(help="Forecasts of each series; three times as many for a single one.", min=4, max=1000)
    ] = 28,
    only: Annotated[str | None, typer.Option(help="Families with this in their name.", metavar="FAMILY")] = None,
    models: Annotated[str | None, typer.Option(help="Some of the models, separated by commas.")] = None,
    model: Annotated[
        str, typer.Option(help="Network of our chain: bundled, none, or an artifact's folder.", metavar="PATH")
    ] = "bundled",
    tune: Annotated[
        bool, typer.Option("--tune", help="Fine-tunes on each family's past too; minutes a family.")
    ] = False,
    sets: Annotated[
        bool, typer.Option("--sets", help="Two fixed sets of series, an hour ahead, instead of families.")
    ] = False,
    series: Annotated[bool, typer.Option("--series", help="A row for each series too.")] = False,
    speed: Annotated[bool, typer.Option("--speed", help="Times forecasts of 10,000 series and of one too.")] = False,
    processes: Annotated[int, typer.Option(help="Processes that share the work.", min=1, max=64)] = 2,
    png: Annotated[Path | None, typer.Option(help="Writes a picture.", metavar="FILE")] = None,
    anomalies: Annotated[
        bool, typer.Option("--anomalies", help="Anomaly detection on the files that have labels, instead of forecasts.")
    ] = False,
    nulls: Annotated[
        bool, typer.Option("--nulls", help="With --anomalies: false alarms on series where nothing happens too.")
    ] = False,
    faults: Annotated[
        int, typer.Option(help="With --anomalies: so many simulated workloads for each kind of fault too.", min=0)
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Forecast accuracy on files: ours beside baselines, with rolling origins. Exit 1 where nothing can be scored."""
    names = None if models is None else tuple(name.strip() for name in models.split(",") if name.strip())
    if anomalies:
        if speed or part is not Part.TEST or origins != 28 or model != "bundled":
            raise InputError("--speed, --part, --origins and --model are about forecasts: leave them out")
        from training.anomalies import command

        labelled = command.Asked(data, timestamps is Stamp.END, only, names, processes, nulls, faults, series, png)
        text, scored = command.benchmark(labelled, as_json, _stages(), _width())
        typer.echo(text)
        raise typer.Exit(0 if scored else 1)
    if nulls or faults:
        raise InputError("--nulls, --faults: they belong to --anomalies: add it")
    from training.benchmark import report, run

    if png is not None:
        import matplotlib  # noqa: F401 - that it is missing is to be said before the work, not after it

        from training.benchmark.picture import picture
    asked = run.Asked(
        data=data,
        stamps_end=timestamps is Stamp.END,
        part=part.value,
        origins=origins,
        only=only,
        models=names,
        model=model,
        processes=processes,
        tune=tune,
        sets=sets,
    )
    told = run.benchmark(asked, _progress("forecasting"))
    timed = []
    if speed:
        from training.benchmark.speed import measured

        timed = measured(model)
    if png is not None:
        picture(told, png)
    typer.echo(report.as_json(told, series, timed) if as_json else report.as_text(told, series, timed, _width()))
    raise typer.Exit(0 if told.rows else 1)


@app.command()
def retrain(
    config: ConfigOption = Path("forecaster.yaml"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Decides what is drawn.", min=0)] = 0,
    margin: Annotated[
        float, typer.Option(help="How much lower the loss must be: 0.01 is 1 %.", min=0.0, max=0.5)
    ] = 0.01,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare, and write nothing.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Make the champion before this one champion again.")] = (
        False
    ),
    as_json: JsonOption = False,
) -> None:
    """The retrain job: fine-tunes the champion to your history, and promotes the result if it is better there."""
    from forecaster.config import load_config
    from serving import marks
    from training import job

    read = load_config(config, os.environ)
    found = None if rollback else marks.of_store(read.store)
    if found is None and not rollback:
        print("forecaster: there is no store to read: marked events and incidents are not left out", file=sys.stderr)
    marked = job.Marks() if found is None else job.Marks(*found)
    options = job.Options(device, seed, margin, dry_run, rollback)
    outcome = job.run(read, options, marked, _stages())
    typer.echo(job.as_json(outcome) if as_json else job.as_text(outcome))
    raise typer.Exit(0 if outcome.ok else 1)


# --- training --------------------------------------------------------------------------------------------------------


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="Folder for the artifact; must not exist.", metavar="DIR")],
    work: Annotated[
        Path | None, typer.Option(help="Examples and checkpoint, to go on from; DIR.work.", metavar="DIR")
    ] = None,
    groups: Annotated[int, typer.Option(help="Synthetic groups of 64 series.", min=1)] = 1_300,
    steps: Annotated[int, typer.Option(help="Of the fit.", min=1)] = 36_000,
    seed: Annotated[int, typer.Option(help="Decides data and weights.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    processes: Annotated[int, typer.Option(help="That make the examples.", min=1, max=256)] = 2,
    amp: Annotated[bool, typer.Option("--amp", help="Mixed precision (bfloat16).")] = False,
    data: Annotated[Path | None, typer.Option(help="Tidy files to learn from too.", metavar="DIR")] = None,
    timestamps: Annotated[
        Stamp, typer.Option(help="Whether a stamp is the start or end of an interval.")
    ] = Stamp.START,
    licence: Annotated[str, typer.Option(help="Of --data; the model card names it.")] = "",
    tune: Annotated[Path | None, typer.Option(help="Fine-tune this artifact to --data instead.", metavar="DIR")] = None,
    mlflow: Annotated[str | None, typer.Option(help="MLflow to log the run to.", metavar="URI")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Export the network too.", metavar="FILE")] = None,
    as_json: JsonOption = False,
) -> None:
    """Trains a model: from synthetic workloads, or fine-tunes an artifact to series of yours."""
    import json

    from models.artifact import digest
    from training import command

    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out: {out} holds files: choose a folder that does not exist")
    asked = command.Asked(
        out=out,
        work=work or out.with_suffix(".work"),
        groups=groups,
        steps=steps,
        seed=seed,
        device=device,
        processes=processes,
        amp=amp,
        data=data,
        licence=licence or ("own" if tune is not None else ""),
        tune=tune,
        tracking_uri=mlflow,
        onnx=onnx,
        stamps_end=timestamps is Stamp.END,
    )
    made = command.train(asked, quiet=as_json)
    if not command.is_first():
        return
    said = {"schemaVersion": 1, "artifact": str(out), "sha256": digest(made), "metrics": dict(made.card.metrics)}
    typer.echo(json.dumps(said, indent=1) if as_json else f"{out}  {digest(made)}")


# --- events ----------------------------------------------------------------------------------------------------------


@events_app.callback()
def events(
    context: typer.Context, url: UrlOption = DEFAULT_URL, token_file: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Without a command: lists events, overrides and incidents of a running service."""
    context.obj = (url, token_file)
    if context.invoked_subcommand is None:
        from serving import marking

        listed = marking.listed(_client(url, token_file))
        typer.echo(marking.as_json(listed) if as_json else marking.as_text(listed))


WorkloadOption = Annotated[str, typer.Option("--workload", help="Name of a workload, or * for all.")]
FromOption = Annotated[str, typer.Option("--from", help="RFC 3339; now, if it is left out.")]
UntilOption = Annotated[str, typer.Option("--until", help="RFC 3339, or a duration from the start: 2h.")]
NoteOption = Annotated[str, typer.Option("--note", help="A text for people.")]


@events_app.command("mark")
def events_mark(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="deploy, holiday, outage, incident or other.")],
    until: UntilOption,
    workload: WorkloadOption = "*",
    start: FromOption = "",
    note: NoteOption = "",
    learn: Annotated[bool, typer.Option("--learn", help="Still learn from the samples of that time.")] = False,
) -> None:
    """Marks something that happened or will; its samples are left out of what is learned."""
    from serving import marking

    typer.echo(marking.mark(_client(*context.obj), kind, workload, (start, until), note, not learn))


@events_app.command("override")
def events_override(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="pin, pause or hold.")],
    until: UntilOption,
    workload: WorkloadOption,
    start: FromOption = "",
    min_replicas: Annotated[int | None, typer.Option(help="Of a pin.")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="Of a pin.")] = None,
    note: NoteOption = "",
) -> None:
    """Pins the floor, pauses a workload or holds its floor, until a stated time."""
    from serving import marking

    limits = (min_replicas, max_replicas)
    typer.echo(marking.override(_client(*context.obj), kind, workload, (start, until), limits, note))


@events_app.command("end")
def events_end(context: typer.Context, id: Annotated[str, typer.Argument(help="Id of an override.")]) -> None:
    """Ends an override now."""
    from serving import marking

    typer.echo(marking.end(_client(*context.obj), id))


@events_app.command("feedback")
def events_feedback(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="Id of an incident.")],
    what: Annotated[str, typer.Argument(help="real, false_alarm or expected.")],
) -> None:
    """Says what an incident was."""
    from serving import marking

    typer.echo(marking.feedback(_client(*context.obj), id, what))


# --- around all verbs ------------------------------------------------------------------------------------------------


def _client(url: str, token_file: Path | None) -> Any:
    from serving.client import Client, read_token

    return Client(url, read_token(token_file, os.environ))


def _terminal() -> tuple[int, int]:
    import shutil

    size = shutil.get_terminal_size((100, 30))
    return size.columns, size.lines


def _width() -> int | None:
    """Of the terminal; None where the output goes elsewhere."""
    return _terminal()[0] if sys.stdout.isatty() else None


def _progress(what: str) -> Callable[[float], None]:
    """A progress bar on stderr, silent without a terminal. Takes the share that is done; 1 ends it."""
    if not sys.stderr.isatty():
        return lambda share: None
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=1.0)
    bar.start()

    def update(share: float) -> None:
        bar.update(task, completed=share)
        if share >= 1:
            bar.stop()

    return update


def _stages() -> Callable[[str, float], None]:
    """Progress of work with several stages: a bar for each, or a line where nobody watches, as in a pod's log."""
    bars: dict[str, Callable[[float], None]] = {}
    watched = sys.stderr.isatty()

    def update(what: str, share: float) -> None:
        if what not in bars:
            for bar in bars.values():
                bar(1.0)
            bars[what] = _progress(what)
            if not watched:
                print(f"forecaster: {what}", file=sys.stderr, flush=True)
        bars[what](share)

    return update


def main(arguments: list[str] | None = None) -> int:
    """Runs a verb; errors that we raise on purpose are one line each on stderr, never a trace."""
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="forecaster", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except ForecasterError as error:
        return _refused(str(error))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("forecaster", "models", "training", "serving"):
            raise
        extra = _EXTRAS.get(missing, "serve")
        return _refused(f"{missing} is not installed: pip install 'forecaster-k8s[{extra}]'")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        told = getattr(error, "format_message", None)  # a wrong option or argument
        if told is None:
            raise
        return _refused(" ".join(str(told()).split()))


def _refused(text: str) -> int:
    for line in text.splitlines() or [""]:
        print(f"forecaster: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
