"""A run of work over many items, which ends the command when it is stopped."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from p3d.archive.engine import Ledger, Summary, describe, run_items
from p3d.archive.machines import Machine
from p3d.archive.work import Work
from p3d.system.distributed import read_launch
from p3d.system.messages import print_note
from p3d.system.signals import StopRequest


def run_work(
    items: Mapping[str, Any], work: Work, machine: Machine, results: Ledger, title: str
) -> Summary:
    """Work on the items that have no result yet, or end the command.

    Under torchrun, each process has its own items, and the first one shows its progress.

    Args:
        items: What a worker gets of each item, by its name.
        work: What the workers do.
        machine: Where they run.
        results: Where the results are noted.
        title: What is being done, for the progress.

    Raises:
        UserError: The run cannot go on.
        SystemExit: SIGINT or SIGTERM stopped it.
    """
    missing = sum(name not in results.done and name not in results.bad for name in items)
    if not missing:
        results.flush()
        return Summary(0, 0, 0.0)
    launch = read_launch()
    with StopRequest(launched=launch.launched) as stop, machine.pool(work, missing) as pool:
        summary = run_items(items, pool, results, stop, title, shown=launch.rank == 0)
    if stop.is_set:
        earlier = len(items) - missing
        print_note(f"stopped: {describe(summary, earlier)}; the same command goes on")
        sys.exit(stop.exit_code)
    return summary
