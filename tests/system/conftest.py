"""This tier's stores are SQLite files whose tables are copied from a template."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def tables(tables_made_once: None) -> None:
    """Copy MLflow's tables in each test of this folder."""
