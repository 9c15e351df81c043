"""A team's MLflow server on this machine, with PostgreSQL, users and rights: as deploy/compose.yaml runs it.

    with team.open() as server, server.admin.logged_in():
        ada = team.add_user("ada")
        team.grant("ada", "baselines", "EDIT")

What a member sets is in `ada.environment`. For a server that other machines reach, there is deploy/.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "server": ["Server", "open"],
        "users": ["Member", "TeamError", "add_user", "grant", "member", "revoke"],
    },
)
