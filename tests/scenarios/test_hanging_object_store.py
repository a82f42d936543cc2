"""An object store that hangs while the control plane serves: it holds those who need it, and nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from pathlib import Path

from federation.app.settings import Objects
from federation.objects.embedded import EmbeddedSettings, start_embedded
from federation.v1 import job_pb2
from tests.support.plane import AISHA, a_plane, a_submit, a_wire_spec

UPLOADS = 40
"""More than any pool of threads has."""


async def test_uploads_that_hang_hold_nobody_else(tmp_path: Path) -> None:
    """Jobs are taken and listed beside more uploads than there are threads; those are answered when the store goes on."""
    store = start_embedded(EmbeddedSettings(tmp_path / "objects", tmp_path / "log", "some-key", "some-secret"))
    named = Objects(store.address.endpoint, store.address.access_key, store.address.secret_key)
    try:
        async with a_plane(tmp_path, named) as plane:
            aisha = plane.voice(AISHA)
            os.kill(store.pid, signal.SIGSTOP)
            digests = [hashlib.sha256(bytes([number])).hexdigest() for number in range(UPLOADS)]
            asked = [job_pb2.CreateUploadRequest(digest=digest, size_bytes=10) for digest in digests]
            uploads = [asyncio.create_task(aisha.job("CreateUpload", one)) for one in asked]
            assert not (await asyncio.wait(uploads, timeout=1.0))[0], "all of them hang"
            submitted = await aisha.job("SubmitJobs", a_submit(a_wire_spec()))
            listed = await aisha.job("ListJobs", job_pb2.ListJobsRequest())
            assert [job.id for job in listed.jobs] == [submitted.results[0].job_id]
            os.kill(store.pid, signal.SIGCONT)
            assert all([bool((await upload).put_url) for upload in uploads])
    finally:
        os.kill(store.pid, signal.SIGCONT)
        store.stop()
