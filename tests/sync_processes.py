"""What the processes of tests/system/test_sync.py run."""


def sync_runs(source: str, to: str) -> None:
    """Copy all runs of a store."""
    from support.sync.sync import sync

    sync(to=to, source=source)


def import_zip(stores: str, path: str) -> None:
    """Import a zip into a store."""
    from support.sync.archive import import_runs
    from support.tracking.store import connect

    connect(stores)
    import_runs(path)
