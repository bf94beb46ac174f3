"""What less memory costs: a uniform net of 20 layers in micro-batches and with recomputation.

For each way: how many times smaller the forward values kept for the backward are, and the arena as a whole; the operations
beyond those of the plain step; and the time of a step, interleaved with the plain one's, as the median of their ratios.

    python ci/bench/budget.py
"""

from __future__ import annotations

from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import aforo as af
from aforo import training
from aforo.device import CPU
from aforo.plan import Plan, make_plan
from aforo.recompute import kept_bytes
from aforo.specs import at
from aforo.steps import FIRST, NEXT, TRAINING, UPDATING, Way

BATCH, WIDTH, DEPTH, ROUNDS = 2048, 256, 20, 9
LAYER = BATCH * WIDTH * 4


def net() -> af.Sequential:
    af.set_seed(1)
    first = af.Dense(WIDTH, "tanh", input_shape=[WIDTH])
    model = af.Sequential([first, *(af.Dense(WIDTH, "tanh") for _ in range(DEPTH - 2)), af.Dense(WIDTH)])
    model.compile(loss="mse", optimizer="sgd")
    return model


def plans(model: af.Sequential, way: Way) -> list[tuple[Plan, int]]:
    """The plans of a step, and how often each runs."""
    sizes = {"batch": way.rows or BATCH, "whole batch": BATCH}
    kinds = {FIRST: 1, NEXT: BATCH // way.rows - 1, UPDATING: 1} if way.rows else {TRAINING: 1}
    return [
        (make_plan(way.graph(partial(model.graph, kind, False), kind), CPU.profile, sizes), times)
        for kind, times in kinds.items()
    ]


def main() -> None:
    x = np.random.default_rng(0).normal(size=(BATCH, WIDTH)).astype("float32")
    plain = net()
    graph, sizes = plain.graph(TRAINING), {"batch": BATCH}
    kept = kept_bytes(graph, sizes)
    recomputations = {f"recomputation, {n} values of a layer kept": Way(BATCH, 0, n * LAYER) for n in (16, 11, 8, 7)}
    ways = {"4 micro-batches": Way(BATCH, BATCH // 4), "8 micro-batches": Way(BATCH, BATCH // 8), **recomputations}
    operations = sum(times * sum(at(step.flops, plan.sizes) for step in plan.steps) for plan, times in plans(plain, Way()))
    arena = plans(plain, Way())[0][0].arena_bytes

    def step(model: af.Sequential, way: Way, batches: Any) -> float:
        model.adopt(way)
        started = perf_counter()
        list(training._run(model, batches, TRAINING, BATCH))
        return perf_counter() - started

    print(f"{'way':44s}{'kept':>8s}{'arena':>8s}{'operations':>13s}{'time':>8s}")
    for name, way in ways.items():
        found = plans(plain, way)
        most = max(plan.arena_bytes for plan, _ in found)
        extra = sum(times * sum(at(s.flops, plan.sizes) for s in plan.steps) for plan, times in found) / operations - 1
        held = kept / (way.kept or kept * way.rows / BATCH)
        model, other = net(), net()
        mine, theirs = (training.prepare(each, x, x) for each in (model, other))
        ratios = [step(model, way, mine) / step(other, Way(), theirs) for _ in range(ROUNDS)]
        print(f"{name:44s}{held:7.2f}×{arena / most:7.2f}×{extra:+12.1%}{median(ratios[2:]):7.2f}×")


if __name__ == "__main__":
    main()
