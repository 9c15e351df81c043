"""What one of two processes does that promote at once."""

import time
from pathlib import Path

from support.registry.promote import PromotionError, promote
from support.tracking.store import connect


def promote_in_turn(stores: str, start: str, *run_ids: str) -> None:
    """Promote each of the runs, as soon as the file `start` is there; what is said goes into a file beside it."""
    connect(stores)
    ready = Path(f"{start}.{'-'.join(run_ids)}")
    ready.write_text("ready")
    while not Path(start).exists():
        time.sleep(0.005)
    for run_id in run_ids:
        try:
            promote(run_id)
        except PromotionError:
            ready.write_text("refused")
