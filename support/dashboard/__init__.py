"""MLflow's pages, opened from a notebook, and a report for where no server may run.

`open` starts a server, or finds the one that runs; `Dashboard` is what it returns. `report.write` writes an
experiment into one HTML file. The modules: view (open, links), launch (finds, starts and ends the server),
server (the process itself), lease (how long it lives), tunnel (ngrok's agent), places (Codespaces, JupyterHub and
others), checks (proofs that an address is ours and closed to others), report.
"""

import lazy_loader

# Lazy, so that `python -m support.dashboard.server` starts without matplotlib.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["report"],
    submod_attrs={"view": ["Dashboard", "open"], "launch": ["DashboardError"], "tunnel": ["TunnelError"]},
)
