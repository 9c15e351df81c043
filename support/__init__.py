"""The code that the notebooks share: one module a room. Importing it does nothing."""
