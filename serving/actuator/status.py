"""/metrics, /healthz and /readyz of the actuator, from the standard library's server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from serving.actuator.kube import Kube
from serving.actuator.leader import Leadership
from serving.actuator.run import Actuator
from serving.actuator.telling import Teller

DEAD_AFTER = 60.0  # seconds without a turn of the deciding thread


def metrics(actuator: Actuator, kube: Kube, teller: Teller, leadership: Leadership | None) -> str:
    """In Prometheus' text format."""
    lines: list[str] = []
    now = time.monotonic()

    def add(name: str, kind: str, words: str, samples: Iterable[tuple[str, float]]) -> None:
        lines.append(f"# HELP {name} {words}")
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(f"{name}{labels} {value:.10g}" for labels, value in samples)

    counts = actuator.counts
    hpas, states = dict(actuator.hpas), dict(actuator.states)
    held = {key: state.hold for key, state in states.items() if state.hold is not None and key in hpas}
    leads = leadership is not None and leadership.may_write()
    add("forecaster_actuator_applies", "gauge", "1 with --apply, 0 in a dry run.", [("", actuator.settings.apply)])
    add("forecaster_actuator_leader", "gauge", "1 while the lease is held.", [("", leads)])
    add("forecaster_actuator_ready", "gauge", "1 once all HPAs have been read.", [("", actuator.ready)])
    add("forecaster_actuator_hpas", "gauge", "HPAs seen.", [("", len(hpas))])
    add("forecaster_actuator_held_hpas", "gauge", "HPAs whose minReplicas is ours.", [("", len(held))])
    add("forecaster_actuator_added_replicas", "gauge", "Floors above users' own minima.", [("", actuator.added)])
    add(
        "forecaster_actuator_floor_replicas",
        "gauge",
        "minReplicas as we hold it.",
        [(_labels(key), hpas[key].min_replicas) for key in held],
    )
    add(
        "forecaster_actuator_user_min_replicas",
        "gauge",
        "The user's own minReplicas, kept.",
        [(_labels(key), hold.users_own) for key, hold in held.items()],
    )
    raised = {key: one.hold for key, one in dict(actuator.targets).items() if one.hold is not None and key in hpas}
    add(
        "forecaster_actuator_cpu_target_percent",
        "gauge",
        "The HPA's CPU target while we hold it raised.",
        [(_labels(key), told) for key in raised if (told := hpas[key].target.value) is not None],
    )
    add(
        "forecaster_actuator_user_cpu_target_percent",
        "gauge",
        "The user's own CPU target, kept.",
        [(_labels(key), hold.users_own) for key, hold in raised.items()],
    )
    add(
        "forecaster_actuator_hpa_status",
        "gauge",
        "1 for what goes on with an HPA.",
        [(_labels(key, f'reason="{code.value}"'), 1) for key, codes in teller.codes().items() for code in codes],
    )
    add(
        "forecaster_actuator_writes_total",
        "counter",
        "Writes to HPAs.",
        [(f'{{action="{action}",result="{result}"}}', n) for (action, result), n in dict(counts.writes).items()],
    )
    add(
        "forecaster_actuator_api_requests_total",
        "counter",
        "Requests to the API server.",
        [(f'{{verb="{verb}",status="{status}"}}', n) for (verb, status), n in dict(kube.requests).items()],
    )
    age = now - actuator.served_at
    add(
        "forecaster_actuator_service_age_seconds",
        "gauge",
        "Since the service last answered.",
        [("", age)],
    )
    add("forecaster_actuator_service_skew_seconds", "gauge", "Its clock less ours.", [("", actuator.skew_seconds)])
    failed = [("", float(counts.polls_failed))]
    add("forecaster_actuator_polls_failed_total", "counter", "Long polls without an answer.", failed)
    add("forecaster_actuator_malformed_total", "counter", "Malformed recommendations.", [("", counts.malformed)])
    add("forecaster_actuator_store_failures_total", "counter", "ConfigMap not written.", [("", counts.store_failed)])
    add("forecaster_actuator_events_dropped_total", "counter", "Events not written.", [("", teller.dropped)])
    name = "forecaster_actuator_delay_seconds"
    lines.append(f"# HELP {name} From a changed recommendation to its write, of the last 1,000 writes.")
    lines.append(f"# TYPE {name} gauge")
    delays = sorted(counts.delays)
    lines.extend(
        f'{name}{{quantile="{q}"}} {delays[min(len(delays) - 1, int(q * len(delays)))]:.6g}'
        for q in (0.5, 0.99)
        if delays
    )
    return "\n".join(lines) + "\n"


def _labels(key: str, more: str = "") -> str:
    namespace, _, hpa = key.partition("/")
    return f'{{namespace="{namespace}",hpa="{hpa}"{"," + more if more else ""}}}'


class Status:
    """Serves on one port, in daemon threads."""

    def __init__(
        self, host: str, port: int, actuator: Actuator, kube: Kube, teller: Teller, leadership: Leadership | None
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                alive = time.monotonic() - actuator.ticked_at < DEAD_AFTER
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, metrics(actuator, kube, teller, leadership))
                elif path == "/healthz":
                    self._answer(200 if alive else 503, "ok\n" if alive else "the deciding thread stands still\n")
                elif path == "/readyz":
                    ready = alive and actuator.ready
                    self._answer(200 if ready else 503, "ok\n" if ready else "the HPAs have not been read yet\n")
                else:
                    self._answer(404, "there are /metrics, /healthz and /readyz\n")

            def _answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server((host, port), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="status", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
