"""What the notebooks share. Each package is one subject; its `__init__` says what is in it.

config, environment, plots < data < models < tracking < dashboard, lineage, comparison < registry, search
< team, sync, exercises. A package imports only from those before it. Importing one does nothing.
"""
