"""Plans on simulated clusters: one node, four, sixteen, unequal ones, and one that leaves."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from kilobit.cluster.sweep.placement import Need, Node, Placements, largest, needs_of, plan
from kilobit.cluster.sweep.workers import ModelWorkers, Workers

HEAD = Node("head", {"CPU": 8.0})


def cluster(*gpus: int) -> list[Node]:
    """Return a head without GPU and a node for each number of GPUs."""
    nodes = [Node(f"n{at}", {"CPU": 4.0 * n, "GPU": float(n)}) for at, n in enumerate(gpus)]
    return [HEAD, *nodes]


def needs(common: Mapping[str, Any], **models: Mapping[str, Any]) -> list[Need]:
    """Return the workers of models whose settings are over common ones."""
    base = Workers.model_validate(common)
    own = {m: base.over(ModelWorkers.model_validate(given)) for m, given in models.items()}
    return needs_of(own, {model: settings.wanted_cpus for model, settings in own.items()})


def check(nodes: Sequence[Node], found: Placements, held: Sequence[str] = ()) -> None:
    """Check what holds of every plan."""
    by_name, used = {node.name: node for node in nodes}, Counter[tuple[str, str]]()
    for need in found.needs:
        on = found.placed.get(need.worker)
        if on is None:
            continue
        assert len(on) == need.ranks
        for node in on:
            assert need.labels.items() <= by_name[node].labels.items()
            for name, amount in need.each.items():
                used[node, name] += amount  # type: ignore[assignment]
        if not need.spans and need.worker not in held:
            assert len(set(on)) == len(need.parts(nodes)), need
    for (node, name), amount in used.items():
        assert amount <= by_name[node].resources.get(name, 0.0) + 1e-6
    check_order(found, held)


def check_order(found: Placements, held: Sequence[str]) -> None:
    """Check that the fewest workers of a model are there or none, and no others before them."""
    least: dict[str, set[bool]] = {}
    for need in found.needs:
        if need.least:
            least.setdefault(need.model, set()).add(need.worker in found.placed)
    assert held or all(len(there) == 1 for there in least.values())
    if any(False in there for there in least.values()):
        extra = {n.worker for n in found.needs if not n.least} - set(held)
        assert not extra & found.placed.keys()


def test_the_fewest_of_each_model_come_before_more_of_any() -> None:
    workers = needs({"per_model": 2, "min_per_model": 1, "gpus": 8}, a={}, b={}, c={})
    found = plan(cluster(8, 8, 8, 8), workers)
    assert set(found.placed) == {"a-0", "b-0", "c-0", "a-1"}
    assert all(len(set(found.placed[name])) == 1 for name in found.placed)
    assert len({found.placed[name][0] for name in found.placed}) == 4
    assert [need.worker for need in found.waits] == ["b-1", "c-1"]
    check(cluster(8, 8, 8, 8), found)


def test_a_small_judge_and_a_large_model_have_workers_of_their_own() -> None:
    large = {"gpus": 1, "shards": {"world_size": 8, "layout": "tensor"}}
    workers = needs({"gpus": 1}, judge={"per_model": 3}, large=large)
    nodes = cluster(8, 8)
    found = plan(nodes, workers)
    assert len(set(found.placed["large-0"])) == 1
    judges = {found.placed[f"judge-{n}"][0] for n in range(3)}
    assert len(judges) == 1
    assert judges != set(found.placed["large-0"])
    check(nodes, found)


def test_ranks_that_compute_together_share_a_node_or_as_few_as_they_need() -> None:
    six = {"shards": {"world_size": 6}}
    workers = needs({"gpus": 1, "per_model": 2, "min_per_model": 1}, a=six, b=six)
    found = plan(cluster(8, 8, 8), workers)
    # The first of each has a node of its own, the next one the third, and the last waits.
    assert len({found.placed[name][0] for name in ("a-0", "b-0", "a-1")}) == 3
    check(cluster(8, 8, 8), found)
    assert [need.worker for need in found.waits] == ["b-1"]
    sixteen = needs({"gpus": 1}, a={"shards": {"world_size": 16, "layout": "tensor"}})
    found = plan(cluster(8, 8, 8), sixteen)
    assert Counter(found.placed["a-0"]) == {"n0": 8, "n1": 8}
    assert any("no node has room" in line and "spans 2" in line for line in found.lines())
    uneven = needs({"gpus": 1}, a={"shards": {"world_size": 12}})
    assert uneven[0].parts(cluster(8, 4)) == (8, 4)
    assert uneven[0].parts(cluster(8, 8, 8)) == (6, 6)
    assert uneven[0].parts(cluster(12, 8)) == (12,)
    # Nodes that are not there yet may be large enough.
    assert uneven[0].parts([HEAD]) == (12,)
    assert plan([HEAD], uneven).placed == {}


def test_ranks_under_zero3_take_what_is_free_on_any_node() -> None:
    spread = {"shards": {"world_size": 2, "layout": "zero3"}}
    workers = needs({"gpus": 1}, a={"gpus": 7}, b={"gpus": 7}, z=spread)
    found = plan(cluster(8, 8), workers)
    assert Counter(found.placed["z-0"]) == {"n0": 1, "n1": 1}
    assert "spans" not in "\n".join(found.lines())
    assert len(set(plan(cluster(8, 8), needs({"gpus": 1}, z=spread)).placed["z-0"])) == 1


def test_one_gpu_workers_fill_a_node_before_the_next() -> None:
    workers = needs({"gpus": 1, "per_model": 5}, a={}, b={})
    found = plan(cluster(8, 8, 8, 8), workers)
    assert Counter(node for on in found.placed.values() for node in on) == {"n0": 8, "n1": 2}
    check(cluster(8, 8, 8, 8), found)


def test_models_that_do_not_fit_at_once_wait_for_their_turn() -> None:
    workers = needs({"gpus": 1}, **{f"step{n}": {} for n in range(17)})
    nodes = cluster(4)
    found = plan(nodes, workers)
    assert len(found.placed) == 4
    assert sum("waits for its turn" in line for line in found.lines()) == 13
    done: list[str] = []
    while len(done) < 17:
        # The first to be placed is the first to have ended.
        done.append(next(iter(found.placed)))
        held = {name: on for name, on in found.placed.items() if name != done[-1]}
        left = [need for need in workers if need.worker not in done]
        found = plan(nodes, left, held)
        assert held.items() <= found.placed.items()
        assert len(found.placed) == min(4, 17 - len(done))
    assert done == [f"step{n}-0" for n in range(17)]


def test_a_node_that_leaves_takes_only_its_own_workers_along() -> None:
    eight = {"shards": {"world_size": 8}}
    workers = needs({"gpus": 1}, a=eight, b=eight, small={"per_model": 3})
    nodes = cluster(8, 8, 8)
    found = plan(nodes, workers)
    gone = found.placed["b-0"][0]
    left = [node for node in nodes if node.name != gone]
    after = plan(left, workers, found.placed)
    stay = {name: on for name, on in found.placed.items() if gone not in on}
    assert after.placed == stay
    assert [need.worker for need in after.waits] == ["b-0"]
    check(left, after, held=list(stay))
    # It comes back, under another name.
    back = plan([*left, Node("new", {"CPU": 32.0, "GPU": 8.0})], workers, after.placed)
    assert set(back.placed["b-0"]) == {"new"}


def test_kinds_resources_and_labels_choose_the_nodes() -> None:
    plain = Node("plain", {"CPU": 8, "GPU": 8, "accelerator_type:A100": 1.0})
    fast = Node("fast", {"CPU": 8, "GPU": 8, "accelerator_type:H100": 1.0, "disk": 2.0})
    near = Node("near", {"CPU": 8, "GPU": 8, "accelerator_type:A100": 1.0}, {"rack": "a"})
    workers = needs(
        {"gpus": 1},
        kind={"accelerator_type": "H100"},
        custom={"resources": {"disk": 2.0}, "per_model": 2, "min_per_model": 1},
        label={"node_labels": {"rack": "a"}},
        none={"node_labels": {"rack": "b"}},
    )
    found = plan([plain, fast, near], workers)
    assert found.placed == {"kind-0": ("fast",), "custom-0": ("fast",), "label-0": ("near",)}
    check([plain, fast, near], found)
    assert any("custom" in line and "2 disk" in line for line in found.lines())
    assert largest(workers).each["disk"] == 2.0
    assert largest(workers[:1]).labels == dict(workers[0].labels)


@pytest.mark.parametrize("shape", [(8,), (8,) * 4, (8,) * 16, (8, 8, 4, 4, 2, 1)])
def test_every_plan_keeps_to_the_nodes_and_to_the_order(shape: tuple[int, ...]) -> None:
    rng = random.Random(str(shape))
    nodes, found = cluster(*shape), Counter[int]()
    for _ in range(60):
        models = {}
        for number in range(rng.randint(1, 6)):
            most = rng.randint(1, 3)
            ranks = rng.choice([1, 1, 2, 4, 6, 8, 16])
            shards = {"world_size": ranks, "layout": rng.choice(["auto", "zero3"])}
            models[f"m{number}"] = {
                "per_model": most,
                "min_per_model": rng.randint(1, most),
                "gpus": rng.choice([0.5, 1, 1, 2]),
                "cpus": 0.5,
                "shards": shards,
            }
        workers = needs({}, **models)
        first = plan(nodes, workers)
        check(nodes, first)
        assert first == plan(nodes, workers)
        gone = rng.choice(nodes).name
        left = [node for node in nodes if node.name != gone]
        stay = {name: on for name, on in first.placed.items() if gone not in on}
        after = plan(left, workers, first.placed)
        assert stay.items() <= after.placed.items()
        check(left, after, held=list(stay))
        found[len(first.placed)] += 1
    assert len(found) > 3
