"""An estimate as one JSON object in base units: FLOP, seconds, dollars, bytes, kWh; shares of 1; null where unknown.

The keys are an interface (`ptool.estimate-cost/1`, estimate-cost.schema.json): they are added to, never renamed.
"""

from __future__ import annotations

from typing import Any

from ptool.costing.assumptions import assumptions, reproduce
from ptool.costing.efficiency import USUAL_MFU, USUAL_PRICE
from ptool.costing.estimate import Estimate
from ptool.costing.fitting import Fit
from ptool.costing.flops import CONVENTIONS
from ptool.costing.scaling import verdict
from ptool.costing.tables import GPUS_AS_OF, GPUS_SOURCE, Run
from ptool.units import Band

SCHEMA = "ptool.estimate-cost/1"
EXCLUDED = ("failed runs", "ablations", "evaluation", "storage", "network", "staff")


def as_json(estimate: Estimate) -> dict[str, Any]:
    """The estimate by the names of the schema."""
    asked, gpu, parts = estimate.asked, estimate.gpu, estimate.parts
    model = asked.model
    return {
        "schema": SCHEMA,
        "inputs": {
            "params": model.params,
            "active_params": model.active_params,
            "tokens": asked.num_tokens,
            "tokens_per_param": estimate.tokens_per_param,
            "mean_span": asked.corpus.mean_span,
            "arch": _arch(estimate),
            "source": model.option or "flags",
        },
        "flops": {
            "total": estimate.flops,
            "six_nd": estimate.flops_6nd,
            "linear": parts.linear if parts else estimate.flops_6nd,
            "attention": parts.attention if parts else None,
            "attention_full": parts.attention_full if parts else None,
            "recompute": parts.recompute if parts else None,
            "convention": asked.convention,
        },
        "hardware": {
            "gpu": gpu.name,
            "count": estimate.num_gpus,
            "peak_dense_flops": estimate.peak_flops,
            "precision": asked.setting.precision,
            "mem_bytes": gpu.memory_bytes,
            "source": GPUS_SOURCE,
            "as_of": GPUS_AS_OF.isoformat(),
        },
        "efficiency": {
            "mfu": {
                **estimate.efficiency.mfu._asdict(),
                "convention": asked.convention,
                "basis": [] if asked.mfu else list(estimate.efficiency.basis),
            },
            "mfu_by_convention": {name: estimate.mfu_by(name) for name in CONVENTIONS},
            "goodput": {
                **estimate.efficiency.goodput._asdict(),
                "basis": [] if asked.goodput else list(estimate.efficiency.basis),
            },
            "calibrated": estimate.efficiency.calibrated,
        },
        "gpu_hours": estimate.gpu_hours._asdict(),
        "wall_seconds": estimate.wall_seconds._asdict(),
        "cost_usd": _cost(estimate),
        "energy_kwh": estimate.energy_kwh._asdict(),
        "memory": _memory(estimate.fit),
        "checkpoint": {
            "bytes": estimate.recovery.checkpoint_bytes,
            "seconds": estimate.recovery.save_seconds,
            "mtbf_seconds": estimate.recovery.mtbf_seconds,
            "young_seconds": estimate.recovery.young_seconds,
            "daly_seconds": estimate.recovery.daly_seconds,
            "overhead": estimate.recovery.overhead,
        },
        "scaling": {
            "verdict": verdict(estimate.tokens_per_param),
            "compute_optimal": [optimum._asdict() for optimum in estimate.optimal],
            "for_use": {**estimate.for_use._asdict(), "note": "extrapolation"} if estimate.for_use else None,
        },
        "inversion": _inversion(estimate),
        "usual_arithmetic": {
            "mfu": USUAL_MFU,
            "goodput": 1.0,
            "price_usd_per_gpu_hour": USUAL_PRICE,
            "gpu_hours": estimate.usual_gpu_hours,
            "cost_usd": estimate.usual_cost_usd,
        },
        "neighbours": [_run(neighbour.run) for neighbour in estimate.neighbours],
        "sensitivity": _sensitivity(estimate),
        "assumptions": [row._asdict() for row in assumptions(estimate)],
        "excluded": list(EXCLUDED),
        "warnings": [warned._asdict() for warned in estimate.warnings],
        "reproduce": " ".join(reproduce(estimate)),
    }


def _arch(estimate: Estimate) -> dict[str, Any] | None:
    shape = estimate.asked.model.shape
    if shape is None:
        return None
    found: dict[str, Any] = shape._asdict()
    found["latent"] = shape.latent._asdict() if shape.latent else None
    return found


def _memory(fit: Fit | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    memory = fit.memory
    return {
        "per_gpu": {
            "weights": memory.weights,
            "grads": memory.gradients,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
            "logits": memory.logits,
            "buffers": memory.buffers,
            "fixed": memory.fixed,
            "states": memory.states,
            "total": memory.total,
        },
        "usable_bytes": fit.usable_bytes,
        "fits": fit.fits,
        "headroom_bytes": fit.headroom_bytes,
        "layout": fit.layout._asdict(),
        "setting": {**fit.setting._asdict(), "micro_batches": None},
        "advice": list(fit.advice),
    }


def _cost(estimate: Estimate) -> dict[str, Any] | None:
    if estimate.cost_usd is None or estimate.price is None:
        return None
    as_of = estimate.price.as_of
    return {
        **estimate.cost_usd._asdict(),
        "price_usd_per_gpu_hour": estimate.price.band._asdict(),
        "price_source": estimate.price.source,
        "price_as_of": as_of.isoformat() if as_of else None,
    }


def _inversion(estimate: Estimate) -> dict[str, Any]:
    found = estimate.inversion._asdict()
    return {name: value._asdict() if isinstance(value, Band) else value for name, value in found.items()}


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "params": run.params,
        "active_params": run.active_params,
        "tokens": run.num_tokens,
        "gpu": run.gpu,
        "gpu_hours": run.gpu_hours,
        "implied_mfu": run.implied_mfu,
        "url": run.source,
    }


def _sensitivity(estimate: Estimate) -> list[dict[str, Any]]:
    """What each input alone, moved to an end of its band, does to the expected cost; the largest effect first."""
    if estimate.price is None or estimate.cost_usd is None:
        return []
    cost, hours = estimate.cost_usd.mid, estimate.gpu_hours.mid
    found = [
        {"field": field, "delta": end - band.mid, "cost_delta": cost * (band.mid / end - 1)}
        for field, band in (("mfu", estimate.efficiency.mfu), ("goodput", estimate.efficiency.goodput))
        for end in (band.low, band.high)
    ]
    price = estimate.price.band
    found += [
        {"field": "price", "delta": end - price.mid, "cost_delta": hours * (end - price.mid)}
        for end in (price.low, price.high)
    ]
    return sorted(found, key=lambda row: -abs(float(row["cost_delta"])))
