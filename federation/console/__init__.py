"""The operator's pages: hubs, nodes, queue and jobs, live; `/metrics` for Prometheus. Everything is served from here.

Pages are rendered on the server and can be read without JavaScript; with it, regions of a page are replaced by newer
ones as server-sent events bring them. Deliberately not here: decisions (`service`), a second reading of authority
(`identity.authority` has the one table), third-party scripts. Read `site.py` first, then `reading.py` and `live.py`.
"""

from federation.console.server import ConsoleServer

__all__ = ["ConsoleServer"]
