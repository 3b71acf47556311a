# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks in Python share: their common options, and writing a result as JSON and as a plot.

A result is a dict of what was measured and on what; rows are dicts, one a line of the table that is printed. A plot
needs matplotlib; where it is missing, asking for one is an error, told before anything is measured.
"""
import datetime
import importlib.util
import json
import os
import pathlib
import platform
import sys


def add_options(parser):
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, - for standard output")
    parser.add_argument("--plot", metavar="FILE", help="write a plot to FILE (.svg or .png); needs matplotlib")
    parser.add_argument("--smoke", action="store_true", help="small and once: does it work at all?")


def check_options(options):
    if options.plot and not importlib.util.find_spec("matplotlib"):
        sys.exit("--plot needs matplotlib (python3 -m pip install matplotlib, or the .venv that ./test makes)")


def machine():
    """What the figures were measured on."""
    cpu = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    return {"date": datetime.date.today().isoformat(), "cores": len(os.sched_getaffinity(0)), "cpu": cpu,
            "kernel": platform.release()}


def table(columns, rows):
    """Prints rows as a table. columns: (heading, key or function of a row, format spec) each; text is set to the left."""
    cells = []
    for row in rows:
        values = [get(row) if callable(get) else row.get(get) for _, get, _ in columns]
        cells.append(["-" if v is None else v if isinstance(v, str) else format(v, spec)
                      for v, (_, _, spec) in zip(values, columns)])
    widths = [max(len(c[i]) for c in [[h for h, _, _ in columns], *cells]) for i in range(len(columns))]
    left = [all(isinstance(get(r) if callable(get) else r.get(get), str) for r in rows) for _, get, _ in columns]
    for line in [[h for h, _, _ in columns], *cells]:
        print("  ".join(c.ljust(w) if to_left else c.rjust(w) for c, w, to_left in zip(line, widths, left)).rstrip())


def write(options, result, draw):
    """Writes what the options ask for. draw(pyplot) draws the plot and returns the figure; of several, {name: draw}, each
    goes to a file of its own, whose name has -NAME before the suffix."""
    result = {"machine": machine(), **result}
    if options.json == "-":
        print(json.dumps(result, indent=1))
    elif options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        import matplotlib
        matplotlib.use("Agg")
        matplotlib.rcParams["svg.hashsalt"] = "weightd"
        from matplotlib import pyplot
        path = pathlib.Path(options.plot)
        several = isinstance(draw, dict)
        for name, each in draw.items() if several else [("", draw)]:
            figure = each(pyplot)
            figure.savefig(path.with_stem(f"{path.stem}-{name}") if several else path, bbox_inches="tight")
            pyplot.close(figure)
