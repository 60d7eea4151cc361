"""The command `front`: Pareto fronts of runs, data sets and imported points."""

import argparse
import json

from cluster.imported import imported_points_of, print_imported
from cluster.regimes import print_regimes
from cluster.show import points_from, print_front
from cluster.sources import open_sources
from cluster.terminal import Terminal
from search.front import fronts
from search.imported import imported_fronts
from search.sweep import SweepError


def front(args: argparse.Namespace) -> int:
    """Print the fronts of one or more runs, and of imported points."""
    sources, others = open_sources(args.runs)
    sweeps = [source.sweep for source in sources]
    length = args.length or next((sweep.length for sweep in sweeps), None)
    try:
        points = [
            point
            for source in sources
            for point in points_from(source.name, source.read, source.sweep, args.length)
        ]
        imported, num_without = imported_points_of(others, length)
    except ValueError as error:
        raise SweepError(str(error)) from error
    if args.json:
        ours = [point.as_json() for each in fronts(points).values() for point in each]
        theirs = [point.as_json() for each in imported_fronts(imported).values() for point in each]
        for line in ours + theirs:
            print(json.dumps(line))
        return 0
    targets = sorted({target for sweep in sweeps for target in sweep.targets})
    console = Terminal()
    if sweeps:
        print_front(console, points, targets)
        order = [model.label for sweep in sweeps for model in sweep.base_models]
        print_regimes(console, points, order, targets)
    print_imported(console, imported, num_without, length)
    return 0
