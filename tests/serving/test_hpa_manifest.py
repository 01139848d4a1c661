"""HPAs from manifests: what the simulator needs of them, and words for what the API would refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from forecaster.errors import InputError
from forecaster.scaling.hpa import DEFAULT_UP, Policy
from serving.hpa_manifest import read

PLAIN = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: checkout, namespace: shop}
spec:
  minReplicas: 3
  maxReplicas: 40
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}]
"""
BEHAVIOR = (
    PLAIN
    + """
  behavior:
    scaleDown:
      stabilizationWindowSeconds: 120
      tolerance: 50m
      policies: [{type: Pods, value: 1, periodSeconds: 60}]
"""
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hpa.yaml"
    path.write_text(text)
    return path


def test_an_hpa_without_behavior_has_none_and_the_controllers_window(tmp_path: Path) -> None:
    (found,) = read(written(tmp_path, PLAIN))
    assert (found.hpa.target, found.hpa.min_replicas, found.hpa.max_replicas) == (60, 3, 40)
    assert found.hpa.behavior is None
    assert found.hpa.stabilization_seconds == 300.0
    assert found.is_of("shop", "checkout")
    assert not found.is_of("other", "checkout")


def test_a_behavior_is_read_with_the_defaults_of_the_api(tmp_path: Path) -> None:
    behavior = read(written(tmp_path, BEHAVIOR))[0].hpa.behavior
    assert behavior is not None
    assert behavior.scale_down.policies == (Policy("Pods", 1, 60.0),)
    assert behavior.scale_down.stabilization_window_seconds == 120
    assert behavior.scale_down.tolerance == pytest.approx(0.05)
    assert behavior.scale_up.policies == DEFAULT_UP
    assert read(written(tmp_path, PLAIN + "  behavior: {}\n"))[0].hpa.behavior is not None  # filled, not absent


def test_a_list_holds_several(tmp_path: Path) -> None:
    one = PLAIN.strip().replace("\n", "\n    ")
    text = f"kind: List\nitems:\n  - {one}\n  - kind: Service\n"
    assert [one.name for one in read(written(tmp_path, text))] == ["checkout"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("HorizontalPodAutoscaler", "Deployment", "holds no HorizontalPodAutoscaler"),
        ("autoscaling/v2", "autoscaling/v1", "write autoscaling/v2"),
        ("periodSeconds: 60", "periodSeconds: 1801", "policies\\[0\\].periodSeconds: 1801"),
        ("value: 1,", "value: 0,", "policies\\[0\\].value: 0"),
        ("type: Pods", "type: Nodes", "write Pods or Percent"),
        ("Seconds: 120", "Seconds: 3601", "stabilizationWindowSeconds: 3601"),
        ("tolerance: 50m", "tolerance: much", "write a share"),
        ("maxReplicas: 40", "maxReplicas: many", "spec.maxReplicas: 'many'"),
    ],
)
def test_what_the_api_would_refuse_is_refused_in_words(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(written(tmp_path, BEHAVIOR.replace(old, new)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.yaml")


def test_what_we_wrote_is_not_taken_for_the_users(tmp_path: Path) -> None:
    """An export of a live HPA while our floor and our target stand in it: annotations tell the user's own values."""
    marks = '{forecaster.io/user-min-replicas: "3", forecaster.io/user-cpu-target: "60"}'
    text = PLAIN.replace("namespace: shop}", f"namespace: shop, annotations: {marks}}}")
    text = text.replace("minReplicas: 3", "minReplicas: 17").replace("averageUtilization: 60", "averageUtilization: 85")
    (found,) = read(written(tmp_path, text))
    assert (found.hpa.target, found.hpa.min_replicas) == (60, 3)
