"""Are the indexes of metrics, params and tags there? Else print what makes them, and exit with 1: indexes.py URI

Others have lost them in an upgrade of MLflow: each look at a run then reads whole tables, and nothing says so.
"""

import sys

import mlflow.store.model_registry.dbmodels.models
import mlflow.store.tracking.dbmodels.models  # noqa: F401
from mlflow.store.db.base_sql_model import Base
from sqlalchemy import create_engine, inspect
from sqlalchemy.schema import CreateIndex

engine = create_engine(sys.argv[1])
found = inspect(engine)
missing = [
    index
    for table in Base.metadata.sorted_tables
    if table.name.endswith(("metrics", "params", "tags"))
    for index in table.indexes
    if index.name not in [each["name"] for each in found.get_indexes(table.name)]
]
for index in missing:
    print(f"{CreateIndex(index).compile(engine)};")
print(f"{len(missing)} indexes are missing.")
sys.exit(bool(missing))
