"""The public Python client: `Client` and `AsyncClient` with the same verbs, and the job mapping that people write.

Deliberately not here: printing (`federation/cli`) and what a spec may ask for (`federation/domain/job.py`).
Read next: `steps.py`, where each verb is written once for both clients.
"""

from federation.client.asynchronous import AsyncClient
from federation.client.blocking import Client
from federation.client.settings import Settings
from federation.client.specfile import Draft, draft_from_mapping, load_spec, spec_from_mapping
from federation.client.transport import TERMINAL, Patience

__all__ = [
    "TERMINAL",
    "AsyncClient",
    "Client",
    "Draft",
    "Patience",
    "Settings",
    "draft_from_mapping",
    "load_spec",
    "spec_from_mapping",
]
