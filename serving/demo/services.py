"""The services of the demo: what they are, how they start, and whether prediction can pay for them.

Three for which it should, three for which it cannot; the sentences say why, the demo measures whether they are right.
"""

from __future__ import annotations

from dataclasses import dataclass

from forecaster.scaling.cluster import Service, Startup

NAMESPACE = "demo"
BACKLOG_SECONDS = 2.0  # what waits at most; a client gives up soon after


@dataclass(frozen=True, slots=True)
class DemoService:
    """One service of the demo."""

    name: str
    capacity: float  # requests per second that fill one replica
    startup_median: float  # seconds from creation to Ready
    startup_p90: float
    min_replicas: int
    max_replicas: int
    pays: bool  # whether we expect prediction to be worth its replicas
    sentence: str

    @property
    def simulated(self) -> Service:
        """As the simulator takes it: target 70 %, no `behavior`, as most HPAs are."""
        return Service(
            capacity_per_replica=self.capacity,
            startup=Startup.lognormal(self.startup_median, self.startup_p90),
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            backlog_limit_seconds=BACKLOG_SECONDS,
        )

    @property
    def load_query(self) -> str:
        return f'sum(rate(http_requests_total{{app="{self.name}"}}[1m]))'

    @property
    def count_query(self) -> str:
        """As `promql.count_behind_sum` makes it of the load."""
        return f'count (rate(http_requests_total{{app="{self.name}"}}[1m]))'


ORDERS, CHECKOUT, INVOICES = "orders", "checkout", "invoices"
CATALOG, GATEWAY, INFERENCE = "catalog", "gateway", "inference"

SERVICES = (
    DemoService(
        ORDERS,
        capacity=40.0,
        startup_median=160.0,
        startup_p90=180.0,
        min_replicas=3,
        max_replicas=80,
        pays=True,
        sentence="The market opens at nine on weekdays and the load rises tenfold in minutes, while a pod takes "
        "180 s to start: who waits for the load is late. Prediction pays.",
    ),
    DemoService(
        CHECKOUT,
        capacity=60.0,
        startup_median=75.0,
        startup_p90=90.0,
        min_replicas=3,
        max_replicas=80,
        pays=True,
        sentence="A JVM that takes 90 s to start, and a newsletter at ten and at six that nearly doubles the load in "
        "minutes: prediction pays as far as it foresees the newsletter. A flash crowd that nobody announced it cannot.",
    ),
    DemoService(
        INVOICES,
        capacity=10.0,
        startup_median=105.0,
        startup_p90=120.0,
        min_replicas=2,
        max_replicas=60,
        pays=True,
        sentence="A batch at each full hour triples the load at once, and a pod takes 120 s to start: the HPA is late "
        "24 times a day. Prediction pays, at the price of replicas that are kept for minutes around each batch.",
    ),
    DemoService(
        CATALOG,
        capacity=60.0,
        startup_median=15.0,
        startup_p90=20.0,
        min_replicas=3,
        max_replicas=30,
        pays=False,
        sentence="The load is flat: there is no rise to be ahead of. Prediction pays nothing here; the anomaly "
        "detection watches its memory.",
    ),
    DemoService(
        GATEWAY,
        capacity=200.0,
        startup_median=6.0,
        startup_p90=8.0,
        min_replicas=3,
        max_replicas=60,
        pays=False,
        sentence="It starts in 8 s and its load is noisy: the HPA follows soon enough, and what noise does next nobody "
        "foresees. A floor is more likely to cost than to help.",
    ),
    DemoService(
        INFERENCE,
        capacity=6.0,
        startup_median=160.0,
        startup_p90=180.0,
        min_replicas=3,
        max_replicas=60,
        pays=False,
        sentence="It starts in 180 s, but its bursts come at random: no forecast knows the next one. A floor can only "
        "be insurance, and has its price.",
    ),
)
NAMES = tuple(one.name for one in SERVICES)
MEMORY_QUERY = f'sum(container_memory_working_set_bytes{{pod=~"{CATALOG}-.*"}})'
MEMORY_LIMIT_QUERY = f'sum(kube_pod_container_resource_limits{{pod=~"{CATALOG}-.*",resource="memory"}})'
