"""The biological reading: populations of neurons, each with an activation, and the synapses between them.

What only hands values on (Concatenate, Flatten, Dropout in prediction) is no neuron: synapses lead through it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..outline import DENSE, EACH, JOIN, Outline, Step

_HAND_ON = {"Concatenate", "Flatten", "Reshape", "Dropout", "Feedback"}


@dataclass(frozen=True)
class Population:
    """units neurons that hold a value of the outline; `step` computes it, None for inputs."""

    value: int
    units: int
    step: Step | None = None
    activation: str = ""


@dataclass(frozen=True)
class Synapses:
    """From one population to another. links: as in a Step. first: where the source begins among what the target is given."""

    source: int
    target: int
    links: str
    first: int
    given: int
    late: bool = False


@dataclass(frozen=True)
class Circuit:
    populations: tuple[Population, ...]
    synapses: tuple[Synapses, ...]

    def count(self, synapses: Synapses) -> int:
        """How many there are in a bundle."""
        source, target = self.populations[synapses.source], self.populations[synapses.target]
        if synapses.links == EACH:
            return min(source.units, target.units)
        if synapses.links == DENSE and target.step is not None and target.step.weights:
            rows, columns = target.step.weights[0][1]
            return source.units * columns if synapses.given == rows else source.units * target.units * rows // synapses.given
        return source.units * target.units


def circuit(outline: Outline) -> Circuit:
    """The populations and synapses of a model whose Dense layers are not split from their activations."""
    populations = [Population(value, outline.values[value].units) for value in outline.inputs]
    parts: dict[int, list[tuple[int, bool]]] = {value: [(i, False)] for i, value in enumerate(outline.inputs)}
    bundles: list[Synapses] = []
    for step in outline.steps:
        if step.late:
            parts[step.outputs[0]] = []
    waiting: list[tuple[int, Step]] = []
    for step in outline.steps:
        if step.late:
            continue
        given = [part for value in step.inputs for part in parts[value]]
        hands_on = step.kind in _HAND_ON and (step.links in (EACH, JOIN))
        if step.kind == "Activation" and len(given) == 1 and len(outline.readers(step.inputs[0])) == 1:
            before = populations[given[0][0]]
            if before.step is not None and not before.activation and not given[0][1]:
                populations[given[0][0]] = replace(before, activation=step.activation, value=step.outputs[0])
                hands_on = True
        if hands_on:
            parts[step.outputs[0]] = given
            continue
        for value in step.outputs:
            waiting.append((len(populations), step))
            parts[value] = [(len(populations), False)]
            populations.append(Population(value, outline.values[value].units, step, step.activation))
    # Feedback is known at the end only: what a late value holds is resolved when every population is there.
    makers = {value: step for step in outline.steps for value in step.outputs}
    late = {step.outputs[0]: step.inputs[0] for step in outline.steps if step.late}

    def resolved(value: int, behind: bool, depth: int = 0) -> list[tuple[int, bool]]:
        if value in late:
            return resolved(late[value], True, depth + 1) if depth < len(outline.values) else []
        made = makers.get(value)
        if made is not None and made.kind in _HAND_ON and made.links in (EACH, JOIN):
            return [part for source in made.inputs for part in resolved(source, behind, depth)]
        return [(population, behind or was_late) for population, was_late in parts[value]]

    for target, step in waiting:
        runs = [resolved(value, False) for value in step.inputs]
        total = sum(populations[p].units for run in runs for p, _ in run)
        first = 0
        for run in runs:
            if step.links == EACH:
                first, total = 0, sum(populations[p].units for p, _ in run)
            for source, behind in run:
                bundles.append(Synapses(source, target, step.links, first, total, behind))
                first += populations[source].units
    return Circuit(tuple(populations), tuple(bundles))
