"""What people read of a retrain job: the model card, the gate's figures, a picture; as files and as text."""

from __future__ import annotations

import json
import math
from pathlib import Path

from models import artifact
from models.artifact import Artifact
from training.material import Split
from training.promote import Gate, Verdict

MOST_WORKLOADS = 10_000  # of gate.json


def parameters(split: Split, seed: int, gate: Gate) -> dict[str, str]:
    """What a job rests on, as parameters of its run."""
    return {
        "first": split.first.isoformat(),
        "learned_through": split.learned_through.isoformat(),
        "last": split.series.origin.isoformat(),
        "rows": str(len(split.series.keys)),
        "origins": str(len(split.columns)),
        "horizon_steps": ",".join(map(str, split.horizons.tolist())),
        "step_seconds": str(int(split.series.step.total_seconds())),
        "seed": str(seed),
        "gate_margin": str(gate.margin),
        "gate_confidence": str(gate.confidence),
        "gate_worst": str(gate.worst),
        "gate_resamples": str(gate.resamples),
    }


def write(folder: Path, made: Artifact, verdict: Verdict, gate: Gate) -> None:
    """model_card.md, gate.json, and gate.png where matplotlib is installed."""
    (folder / "model_card.md").write_text(model_card(made, verdict))
    told = {
        "promote": verdict.promote,
        "reasons": list(verdict.reasons),
        "figures": verdict.figures(),
        "lossRatioByWorkload": dict(sorted(verdict.by_workload.items(), key=lambda one: -one[1])[:MOST_WORKLOADS]),
    }
    (folder / "gate.json").write_text(json.dumps(told, indent=1))
    if verdict.by_workload:
        picture(folder / "gate.png", verdict, gate)


def picture(file: Path, verdict: Verdict, gate: Gate) -> None:
    """Loss of each workload beside the champion's; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    ratios = sorted(verdict.by_workload.values())
    axes.plot(range(1, len(ratios) + 1), ratios, ".", label="workloads, sorted")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.axhline(1 - gate.margin, color="tab:green", linestyle="--", label="needed on average")
    axes.axhspan(
        math.exp(verdict.mean_log_ratio), math.exp(verdict.upper_log_ratio), alpha=0.3, label="mean to upper end"
    )
    axes.set(yscale="log", xlabel="workload", ylabel="loss / champion's loss", title="Challenger beside champion")
    axes.legend(loc="upper left")
    figure.savefig(file, dpi=120)


def model_card(made: Artifact, verdict: Verdict) -> str:
    card = made.card
    lines = [
        f"# {card.architecture}, {artifact.digest(made)[:8]}",
        "",
        f"Digest `{artifact.digest(made)}`, fine-tuned from `{card.parent}`.",
        f"Code {card.code_version}, seed {card.seed}.",
        "",
        "## Training data",
        "",
        *(f"- {one.name} ({one.licence}) {one.description}".rstrip() for one in card.training_data),
    ]
    if card.data_range is not None:
        lines.append(f"- from {card.data_range.first.isoformat()} to {card.data_range.last.isoformat()}")
    lines += ["", "## Measured", "", "| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:.6g} |" for name, value in {**card.metrics, **verdict.figures()}.items()]
    lines += ["", "## Gate", "", "Promoted." if verdict.promote else "Held: " + "; ".join(verdict.reasons) + "."]
    return "\n".join(lines) + "\n"
