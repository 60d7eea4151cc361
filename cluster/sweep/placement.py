"""Placement of workers on the nodes of a cluster: which nodes hold whose ranks, and what waits.

`plan` is a function of nodes and workers alone; the pool asks Ray for what it says, and a dry run
prints it. The fewest workers of each model are placed first, larger ones before smaller ones and
all of a model or none; a model without room waits for its turn, until workers of a model that has
ended leave. Further workers follow, one of each model in turn, once none of the fewest waits.

Ranks that exchange parts of every layer share one node, or as few as their number forces. Ranks
under ZeRO-3 may span nodes. A worker goes to the fullest node that has the room, so that the
emptiest stay whole for larger ones.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kilobit.cluster.sweep.workers import Workers
from kilobit.search.settings import InputError

# Sums of fractions such as 0.1 are not exact.
_ROUNDING = 1e-6
Amounts = Mapping[str, float]
"""Amounts of resources by the names that Ray has for them."""


@dataclass(frozen=True)
class Node:
    """A node of a cluster: its name, all its resources, and its labels."""

    name: str
    resources: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Need:
    """A worker to place.

    Attributes:
        worker: its name.
        model: label of its base model.
        each: resources of a rank.
        ranks: number of its ranks.
        spans: whether its ranks may be spread over nodes freely.
        labels: labels that its nodes have to have.
        least: whether it is one of the fewest workers with which its model begins.
    """

    worker: str
    model: str
    each: Amounts
    ranks: int = 1
    spans: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    least: bool = True

    def parts(self, nodes: Sequence[Node]) -> tuple[int, ...]:
        """Return the ranks on each of the nodes that the worker needs, as few as there can be.

        Where no node is large enough for a rank, a larger one is expected.
        """
        rooms = sorted(
            (min(self.ranks, self.room_on(node, node.resources)) for node in nodes), reverse=True
        )
        if self.spans or not rooms or not rooms[0]:
            return (self.ranks,)
        parts: list[int] = []
        number = next((n for n in range(1, len(rooms)) if sum(rooms[:n]) >= self.ranks), len(rooms))
        for at, room in enumerate(reversed(rooms[:number])):
            parts.append(min(room, (self.ranks - sum(parts)) // (number - at)))
        # Too few nodes: the last part waits for one more.
        return tuple(sorted(filter(None, [*parts, self.ranks - sum(parts)]), reverse=True))

    def room_on(self, node: Node, free: Amounts) -> int:
        """Return the number of its ranks, or of workers of one rank, that a node has room for."""
        if any(node.labels.get(name) != value for name, value in self.labels.items()):
            return 0
        rooms = (free.get(name, 0.0) / amount for name, amount in self.each.items())
        return math.floor(min(rooms) + _ROUNDING)

    def __str__(self) -> str:
        amounts = {"CPU": "CPUs", "GPU": "GPUs"}
        return " and ".join(f"{n:g} {amounts.get(name, name)}" for name, n in self.each.items()) + (
            f" on {self.ranks} ranks each" if self.ranks > 1 else ""
        )


@dataclass(frozen=True)
class Placements:
    """A plan.

    Attributes:
        needs: the workers, in the order in which they are placed.
        placed: the node of each rank, by worker.
    """

    needs: tuple[Need, ...]
    placed: Mapping[str, tuple[str, ...]]

    @property
    def waits(self) -> tuple[Need, ...]:
        """Return the workers without room."""
        return tuple(need for need in self.needs if need.worker not in self.placed)

    def lines(self) -> list[str]:
        """Return the plan as text: a line a node, and a line a model that waits."""
        on: dict[str, list[str]] = {}
        for worker, nodes in self.placed.items():
            for node, ranks in Counter(nodes).items():
                many = f" ({ranks} of {len(nodes)} ranks)" if len(nodes) > 1 else ""
                on.setdefault(node, []).append(f"{worker}{many}")
        found = [f"{node}: {', '.join(workers)}" for node, workers in on.items()]
        for need in self.needs:
            number = len(set(self.placed.get(need.worker, ())))
            if number > 1 and not need.spans:
                found.append(f"{need.worker}: no node has room for {need}, so it spans {number}")
        waits: dict[str, list[Need]] = {}
        for need in self.waits:
            waits.setdefault(need.model, []).append(need)
        for model, needs in waits.items():
            turn = "waits for its turn" if any(need.least for need in needs) else "would have more"
            found.append(f"{model} {turn}: no room for {len(needs)} workers with {needs[0]}")
        return found


def needs_of(workers: Mapping[str, Workers], cpus: Amounts) -> list[Need]:
    """Return the workers of a sweep in the order in which they are placed.

    Args:
        workers: settings by base model.
        cpus: CPUs of a rank by base model, where its ranks have no own number.
    """
    found = []
    for at, (model, own) in enumerate(workers.items()):
        ranks = own.ranks(cpus[model])
        each = {"CPU": ranks.cpus_per_rank or 0.0, "GPU": ranks.gpus_per_rank or 0.0}
        size = (-each["GPU"] * ranks.world_size, -each["CPU"] * ranks.world_size)
        if own.accelerator_type is not None:
            # So Ray asks for a type: a node has 1 of it, for all of its accelerators.
            each[f"accelerator_type:{own.accelerator_type}"] = 0.001
        each = {name: amount for name, amount in {**each, **own.resources}.items() if amount}
        spans = ranks.world_size > 1 and (ranks.layout == "zero3" or ranks.offload is not None)
        for number in range(own.per_model):
            least = number < own.least
            need = Need(
                f"{model}-{number}",
                model,
                # Ray rejects an empty bundle; this small share of a CPU is always available.
                each or {"CPU": 0.001},
                ranks.world_size,
                spans,
                own.node_labels,
                least,
            )
            found.append(((not least, 0 if least else number, size, at, number), need))
    return [need for _, need in sorted(found, key=lambda pair: pair[0])]


def largest(needs: Sequence[Need], *, as_ranks: bool = False) -> Need:
    """Return a worker that has room for any of some workers.

    Args:
        needs: the workers.
        as_ranks: whether it has as many ranks as the one with the most; else it is one rank that
            has the resources of all.
    """
    each: dict[str, float] = {}
    for need in needs:
        for name, amount in need.each.items():
            each[name] = max(each.get(name, 0.0), amount if as_ranks else need.ranks * amount)
    ranks = max(need.ranks for need in needs) if as_ranks else 1
    spans = as_ranks and all(need.spans for need in needs)
    labels = dict.fromkeys(item for need in needs for item in need.labels.items())
    common = {name: v for name, v in labels if all(need.labels.get(name) == v for need in needs)}
    return Need("", "", each, ranks, spans, common)


def plan(
    nodes: Sequence[Node],
    needs: Iterable[Need],
    held: Mapping[str, Sequence[str]] | None = None,
) -> Placements:
    """Return the placement of workers on nodes; see the module's docstring.

    Args:
        nodes: the nodes that are there.
        needs: the workers, as `needs_of` orders them.
        held: the node of each rank of the workers that are placed already, and stay.
    """
    needs, by_name = tuple(needs), {node.name: node for node in nodes}
    free = {node.name: dict(node.resources) for node in nodes}
    stay = {n: tuple(on) for n, on in (held or {}).items() if set(on) <= by_name.keys()}
    placed: dict[str, tuple[str, ...]] = {}
    for need in needs:
        if need.worker in stay:
            placed[need.worker] = stay[need.worker]
            _take(free, need, stay[need.worker])
    for model in dict.fromkeys(need.model for need in needs if need.least):
        left = {name: dict(amounts) for name, amounts in free.items()}
        found: dict[str, tuple[str, ...]] = {}
        missing = [n for n in needs if n.least and n.model == model and n.worker not in placed]
        for need in missing:
            on = _place(need, nodes, left)
            if on is None:
                break
            _take(left, need, on)
            found[need.worker] = on
        else:
            free = left
            placed |= found
    if all(need.worker in placed for need in needs if need.least):
        for need in needs:
            on = None if need.worker in placed else _place(need, nodes, free)
            if on is not None:
                _take(free, need, on)
                placed[need.worker] = on
    return Placements(needs, {n.worker: placed[n.worker] for n in needs if n.worker in placed})


def _place(
    need: Need, nodes: Sequence[Node], free: Mapping[str, Amounts]
) -> tuple[str, ...] | None:
    """Return the node of each rank of a worker, None if there is no room."""
    rooms = {node.name: need.room_on(node, free[node.name]) for node in nodes}
    fullest = sorted(rooms, key=lambda n: (free[n].get("GPU", 0.0), free[n].get("CPU", 0.0)))
    parts = (need.ranks,) if need.spans else need.parts(nodes)
    found: list[str] = []
    for part in parts:
        there = (name for name in fullest if name not in found and rooms[name] >= part)
        at = next(there, None)
        if at is not None:
            found += [at] * part
    if need.spans and not found:
        for name in sorted(rooms, key=lambda name: -rooms[name]):
            found += [name] * min(rooms[name], need.ranks - len(found))
    return tuple(found) if len(found) == need.ranks else None


def _take(free: Mapping[str, dict[str, float]], need: Need, on: Sequence[str]) -> None:
    for node in on:
        for name, amount in need.each.items():
            free[node][name] = free[node].get(name, 0.0) - amount


def cpus_here(workers: Mapping[str, Workers], cpus: float, gpus: float) -> dict[str, float]:
    """Return the CPUs of a rank of each base model on a machine with so many CPUs and GPUs.

    Raises:
        InputError: if the fewest workers of a base model do not fit on it, even alone, or need
            what only nodes of a cluster have.
    """
    for model, own in workers.items():
        for field_name in ("resources", "node_labels"):
            if getattr(own, field_name):
                raise InputError(
                    f"workers.{field_name}: {model} needs {', '.join(getattr(own, field_name))}, "
                    "which nodes of a cluster have that was started with them: give its --address"
                )
        ranks = own.ranks(own.cpus or 0.0)
        number = own.least * ranks.world_size
        what = f"{number} workers" if ranks.world_size == 1 else f"{number} ranks of workers"
        for name, each, there in (
            ("GPU", ranks.gpus_per_rank or 0.0, gpus),
            ("CPU", ranks.cpus_per_rank or 0.0, cpus),
        ):
            if each and each * number > there + _ROUNDING:
                raise InputError(
                    f"workers.{name.lower()}s: {what} of {model} with {each:g} {name}s each need "
                    f"{each * number:g}, {there:g} are available"
                )
    fixed, shared = 0.0, 0
    for own in workers.values():
        number = own.per_model * own.shards.world_size
        set_cpus = own.cpus if own.shards.cpus_per_rank is None else own.shards.cpus_per_rank
        fixed += number * (set_cpus or 0.0)
        shared += number * (set_cpus is None)
    # Workers take turns on the cores where there are more workers than cores, and models where
    # those with a number of their own leave none.
    share = int(1000 * (cpus - fixed if fixed < cpus else cpus) / max(shared, 1)) / 1000
    if shared and share <= 0:
        raise InputError(f"workers: {shared} workers are too many for {cpus:g} CPUs")
    return {
        model: min(float(own.threads), share) if own.cpus is None else own.cpus
        for model, own in workers.items()
    }
