"""The ring against the packages users would take instead, and against the hash alone.

The floor is a Python function that does nothing but hash the key. Peers: uhashring (what Python users pick),
and ketama, the C extension around libketama. Writes the curves of the documentation with ``--plots DIR``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uhashring
import xxhash
from chart import lines
from ketama import Ketama
from measure import emit, interleaved, per_call, table

from replicated.ring import HashRing, JumpHash, Maglev, Rendezvous

KEYS = [f"user:{number}" for number in range(100_000)]
VNODES = 160

FLOOR = "floor: xxh3 of key.encode()"


def names(count: int) -> list[str]:
    return [f"10.0.{number >> 8}.{number & 255}:8080" for number in range(count)]


def floor(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode())


def xxh3_of_str(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode())


def c_ketama(count: int) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("".join(f"{name}\t100\n" for name in names(count)))
        file.flush()
        return Ketama(file.name)


def owner_contenders(count: int) -> dict[str, Callable[[Any], object]]:
    calls: dict[str, Callable[[Any], object]] = {
        FLOOR: floor,
        f"HashRing, {VNODES} virtual nodes": HashRing(names(count), vnodes=VNODES).owner,
        "uhashring, default": uhashring.HashRing(names(count)).get_node,
    }
    if count <= 1000:
        xxh3 = uhashring.HashRing(names(count), vnodes=VNODES, hash_fn=xxh3_of_str)
        calls |= {"HashRing, default": HashRing(names(count)).owner, "uhashring, xxh3": xxh3.get_node}
    if count <= 100:  # libketama keeps its points on the stack
        calls["ketama (C)"] = c_ketama(count).get_server
    return calls


def owner(count: int, rounds: int) -> dict[str, float]:
    keys = KEYS[:50_000]
    contenders = {name: per_call(call, keys) for name, call in owner_contenders(count).items()}
    taken = interleaved(contenders, rounds, floor=FLOOR)
    return {name: seconds / len(keys) for name, seconds in taken.items()}


def others(rounds: int) -> dict[str, float]:
    calls: dict[str, tuple[Callable[[Any], object], int]] = {
        FLOOR: (floor, 50_000),
        "HashRing": (HashRing(names(100)).owner, 50_000),
        "Maglev": (Maglev(names(100)).owner, 50_000),
        "JumpHash": (JumpHash(names(100)).owner, 5_000),
        "Rendezvous": (Rendezvous(names(100)).owner, 1_000),
        "Rendezvous, weighted": (Rendezvous({n: 1 + i % 2 for i, n in enumerate(names(100))}).owner, 1_000),
    }
    taken = interleaved({name: per_call(call, KEYS[:many]) for name, (call, many) in calls.items()}, rounds)
    return {name: seconds / calls[name][1] for name, seconds in taken.items()}


def three_owners(count: int, rounds: int) -> dict[str, float]:
    keys = KEYS[:1000]
    ours = HashRing(names(count), vnodes=VNODES)
    theirs = uhashring.HashRing(names(count))
    taken = interleaved(
        {
            "HashRing.owners(key, 3)": per_call(lambda key: ours.owners(key, 3), keys),
            "uhashring range(key, size=3)": per_call(lambda key: list(theirs.range(key, size=3)), keys),
        },
        rounds,
    )
    return {name: seconds / len(keys) for name, seconds in taken.items()}


def changes(rounds: int) -> dict[str, float]:
    members = names(1000)
    ours = HashRing(members, vnodes=VNODES)
    theirs = uhashring.HashRing(members, vnodes=VNODES)
    fresh = [f"10.9.0.{number}:8080" for number in range(5)]

    def run(add: Callable[[str], object], remove: Callable[[str], object]) -> Callable[[], None]:
        def both() -> None:
            for name in fresh:
                add(name)
            for name in fresh:
                remove(name)

        return both

    taken = interleaved(
        {
            "HashRing add or remove": run(ours.add, ours.remove),
            "uhashring add or remove": run(theirs.add_node, theirs.remove_node),
        },
        rounds,
    )
    return {name: seconds / 10 for name, seconds in taken.items()}


def build(rounds: int) -> dict[str, float]:
    members = names(1000)
    return interleaved(
        {
            "HashRing": lambda: HashRing(members, vnodes=VNODES),
            "uhashring, xxh3": lambda: uhashring.HashRing(members, vnodes=VNODES, hash_fn=xxh3_of_str),
        },
        rounds,
    )


def memory() -> dict[str, float]:
    """Bytes a virtual node at 1,000 nodes."""
    sizes = {}
    for vnodes in (VNODES, 384):
        members = names(1000)
        tracemalloc.start()
        ring = HashRing(members, vnodes=vnodes)
        current, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        sizes[f"{vnodes} virtual nodes"] = current / vnodes / len(ring)
    return sizes


def soak(lookups: int) -> dict[str, int]:
    """Four threads read while one adds and removes; whatever is raised or is in neither ring is an error."""
    members = set(names(100))
    extra = "10.9.0.1:8080"
    ring = HashRing(members)
    allowed = members | {extra}
    errors: list[object] = []
    done = threading.Event()
    changes = 0

    def read() -> None:
        for start in range(0, lookups // 4, len(KEYS)):
            try:
                met = set(map(ring.owner, KEYS[: min(len(KEYS), lookups // 4 - start)]))
            except Exception as error:
                errors.append(error)
            else:
                errors.extend(met - allowed)

    def write() -> None:
        nonlocal changes
        while not done.is_set():
            ring.add(extra)
            ring.remove(extra)
            changes += 2

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    readers = [threading.Thread(target=read) for _ in range(4)]
    writer = threading.Thread(target=write)
    for thread in (*readers, writer):
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    writer.join()
    sys.setswitchinterval(interval)
    return {"lookups": lookups // 4 * 4, "changes": changes, "errors": len(errors)}


def peak(count: int, vnodes: int, sets: int) -> float:
    """The share of the busiest node over the mean, exact, as a mean over name sets."""
    ratios = []
    for number in range(sets):
        ring = HashRing([f"{number}-{name}" for name in names(count)], vnodes=vnodes)
        ratios.append(float(max(ring.shares().values())) * count)
    return statistics.mean(ratios)


def added(count: int, vnodes: int, sets: int) -> list[float]:
    """What one node more moves, exact, in units of the least possible 1/(count + 1), for every name set."""
    parts = []
    for number in range(sets):
        members = [f"{number}-{name}" for name in names(count + 1)]
        before, after = HashRing(members[1:], vnodes=vnodes), HashRing(members, vnodes=vnodes)
        parts.append(float(sum(before.moved(after).values())) * (count + 1))
    return parts


def plots(directory: Path, sets: int, growth: dict[str, dict[int, float]]) -> dict[str, object]:
    steps = [32, 64, 128, 256, 512, 1024, 2048]
    peaks = {
        f"{count} nodes": {vnodes: peak(count, vnodes, max(3, sets * 10 // count)) for vnodes in steps}
        for count in (10, 100)
    }
    moves = {vnodes: added(10, vnodes, sets) for vnodes in steps}
    spread = {
        f"largest of {sets} name sets": {vnodes: max(parts) for vnodes, parts in moves.items()},
        "mean": {vnodes: statistics.mean(parts) for vnodes, parts in moves.items()},
        "smallest": {vnodes: min(parts) for vnodes, parts in moves.items()},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ring-balance.svg").write_text(
        lines("Share of the busiest node over the mean", "virtual nodes", peaks, low=1.0)
    )
    (directory / "ring-movement.svg").write_text(
        lines("What an eleventh node moves, over 1/11", "virtual nodes", spread, low=0.0)
    )
    (directory / "ring-growth.svg").write_text(
        lines("owner(key), ratio to the hash alone", "nodes", growth, low=0.0)
    )
    return {"peak over mean": peaks, "movement": spread}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--soak", type=int, default=10_000_000, help="lookups beside a writer; 0 for none")
    parser.add_argument("--plots", type=Path, help="write the curves here")
    parser.add_argument("--sets", type=int, default=30, help="name sets a point of the curves")
    parser.add_argument(
        "--growth", type=int, nargs="*", default=[10, 100, 1000, 10_000], help="numbers of nodes"
    )
    options, _ = parser.parse_known_args()
    text: list[str] = []
    figures: dict[str, object] = {}
    growth: dict[str, dict[int, float]] = {}
    for count in options.growth:
        taken = owner(count, options.rounds)
        figures[f"owner, {count} nodes"] = taken
        text.append(table(f"owner(key), {count:,} nodes", taken, floor=FLOOR))
        for name in (f"HashRing, {VNODES} virtual nodes", "uhashring, default"):
            growth.setdefault(name, {})[count] = taken[name] / taken[FLOOR]
    for title, unit, taken, against in (
        ("owner(key) of every table, 100 nodes", "ns", others(options.rounds), FLOOR),
        ("Three owners, 100 nodes", "ns", three_owners(100, options.rounds), "HashRing.owners(key, 3)"),
        ("Three owners, 1,000 nodes", "ns", three_owners(1000, 3), "HashRing.owners(key, 3)"),
        ("A change at 1,000 nodes x 160", "ms", changes(3), "HashRing add or remove"),
        ("A build of 1,000 nodes x 160", "ms", build(3), "uhashring, xxh3"),
    ):
        figures[title] = taken
        text.append(table(title, taken, floor=against, unit=unit))
    figures["bytes a virtual node, 1,000 nodes"] = sizes = memory()
    text.append("### Memory, 1,000 nodes\n\n| | bytes a virtual node |\n|---|---:|")
    text.append("".join(f"| {name} | {size:.0f} |\n" for name, size in sizes.items()))
    if options.soak:
        figures["soak"] = soaked = soak(options.soak)
        text.append("### Four reading threads, one writing\n")
        text.append(
            "{lookups:,} lookups, {changes:,} changes of the membership, {errors} errors\n".format(**soaked)
        )
    if options.plots:
        figures["curves"] = plots(options.plots, options.sets, growth)
    emit("ring", "\n".join(text), figures)


if __name__ == "__main__":
    main()
