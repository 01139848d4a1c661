"""A fake Kubernetes API server for tests, on a loopback port, with the answers of the real one (v1.36).

    with FakeApiServer() as server:
        server.create_hpa("shop", "checkout", min_replicas=3, manager="helm")
        client = Client(server.url, token=server.token("actuator"))
        …
        assert server.get("shop", "checkout")["spec"]["minReplicas"] == 5
        assert server.owners("shop", "checkout") == [("forecaster-actuator", "Apply")]
        assert [one.query["force"] for one in server.writes("actuator")] == ["true"]

Objects are written from the test's side by `create_hpa`, `apply_as`, `patch_as`, `replace_as`, `delete_hpa`,
`recreate_hpa`, `write_status`; these raise `ApiError` where the server would refuse. Faults: `fail_next`,
`throttle_next`, `break_json`, `cut_next`, `hang`, `on_next_write`, `deny`, `throttle`, `policy`, `drop_watches`,
`close_watches`, `expire_watches`, `compact`, `restore_storage`, `lose_bookmarks`, `silent`, `stop`, `kill`, `drain`,
`restart`. A request is chosen by a callable or by `"VERB part/of/path"`: `"patch namespaces/shop"`, `"* leases"`.
"""

from tests.apiserver.errors import ApiError
from tests.apiserver.kinds import CONFIG_MAP, EVENT, HPA, LEASE
from tests.apiserver.server import Asked, FakeApiServer, Right, cpu_metric, right

__all__ = ["CONFIG_MAP", "EVENT", "HPA", "LEASE", "ApiError", "Asked", "FakeApiServer", "Right", "cpu_metric", "right"]
