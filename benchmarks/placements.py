"""Plans of workers on simulated clusters: how many hold what a plan promises, and their time.

    python benchmarks/placements.py

Draws sweeps of one to six models with workers of their own, plans each on clusters of several
shapes, then without one of the nodes, and again with it. Prints for each shape the placements, the
workers with and without room, the plans that break a promise, and the processor time of a plan.
"""

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kilobit.cluster.sweep.placement import Node, Placements, needs_of, plan
from kilobit.cluster.sweep.workers import Workers
from kilobit.search.streams import stream

SHAPES = {
    "1 x 8": (8,),
    "4 x 8": (8,) * 4,
    "16 x 8": (8,) * 16,
    "2 x 8, 2 x 4, 2, 1": (8, 8, 4, 4, 2, 1),
}
SWEEPS = 500


def workers_of(rng: random.Random) -> dict[str, Workers]:
    """Return the workers of random models."""
    found: dict[str, Workers] = {}
    for number in range(rng.randint(1, 6)):
        most = rng.randint(1, 3)
        shards = {
            "world_size": rng.choice([1, 1, 2, 4, 6, 8, 16]),
            "layout": rng.choice(["auto", "zero3"]),
        }
        own: dict[str, Any] = {"gpus": rng.choice([0.5, 1, 1, 2]), "cpus": 0.5, "shards": shards}
        own |= {"per_model": most, "min_per_model": rng.randint(1, most)}
        found[f"m{number}"] = Workers.model_validate(own)
    return found


def broken(nodes: Sequence[Node], found: Placements, held: Mapping[str, Any]) -> bool:
    """Return whether a plan uses more than there is, or separates ranks that belong together."""
    used: Counter[str] = Counter()
    room = {node.name: node.resources.get("GPU", 0.0) for node in nodes}
    for need in found.needs:
        on = found.placed.get(need.worker, ())
        for node in on:
            used[node] += need.each["GPU"]  # type: ignore[assignment]
        together = need.spans or need.worker in held or not on
        if not together and len(set(on)) != len(need.parts(nodes)):
            return True
    return any(used[name] > room[name] + 1e-6 for name in used)


def main() -> None:
    """Print a line for each shape of a cluster."""
    print("cluster | placements | workers placed | waiting | broken | ms a plan")
    for name, shape in SHAPES.items():
        rng, count, counted = stream(0, name), 0, Counter[str]()
        nodes = [Node("head", {"CPU": 8.0})]
        nodes += [Node(f"n{at}", {"CPU": 64.0, "GPU": float(n)}) for at, n in enumerate(shape)]
        began = time.process_time()
        for _ in range(SWEEPS):
            workers = workers_of(rng)
            needs = needs_of(workers, dict.fromkeys(workers, 0.5))
            gone, held = rng.choice(nodes[1:]), dict[str, Any]()
            for there in (nodes, [node for node in nodes if node != gone], nodes):
                found = plan(there, needs, held)
                names = {node.name for node in there}
                counted["broken"] += broken(
                    there, found, {n: on for n, on in held.items() if set(on) <= names}
                )
                held = dict(found.placed)
                count += 1
                counted["placed"] += len(found.placed)
                counted["waiting"] += len(found.waits)
        ms = 1e3 * (time.process_time() - began) / count
        told = (name, count, *(counted[key] for key in ("placed", "waiting", "broken")))
        print(" | ".join(map(str, told)), f"| {ms:.2f}")


if __name__ == "__main__":
    main()
