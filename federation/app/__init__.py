"""The composition root of the control plane: settings are read once, parts are put together, and it serves.

Floor 6: it may import everything below, and nothing imports it but `cli` and `simulation`.
"""

from federation.app.serving import serve_main

__all__ = ["serve_main"]
