"""The routes: pages, their live streams, what forms ask for, metrics. Each has a row in the authority table.

Read `door.py` for who looks, `reading.py` for what is shown, `pages.py` for how it becomes HTML.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import Depends, FastAPI, Request
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.staticfiles import StaticFiles

from federation.console.door import Door, Viewer, from_elsewhere
from federation.console.figures import CONTENT_TYPE, Figures
from federation.console.headers import SafeHeaders
from federation.console.live import Live, Watched
from federation.console.logs import follow, tail_of
from federation.console.pages import Pages
from federation.console.reading import Reading
from federation.domain.job import Job
from federation.errors import Code, Fault, FederationError, invalid, not_found
from federation.identity.authority import denied, rule_of, speaks_for
from federation.objects.credentials import scoped_credentials
from federation.service import hubs as service_hubs
from federation.service import jobs as service_jobs
from federation.service import policies
from federation.service.desk import Desk
from federation.service.world import Unit

STATIC = Path(__file__).parent / "static"
FORM_BYTES_MAX = 8_192
LINK_TTL_S = 600
log = logging.getLogger(__name__)


class Site:
    """The application and what it is made of."""

    def __init__(self, desk: Desk, door: Door, *, tls: bool) -> None:
        self.desk = desk
        self.door = door
        self.reading = Reading(desk)
        self.live = Live(desk)
        self.pages = Pages(STATIC)
        self.figures = Figures(desk, self.live)
        self.app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, dependencies=[Depends(self._admit)])
        self.app.add_middleware(GZipMiddleware, minimum_size=1_000, compresslevel=6)
        self.app.add_middleware(SafeHeaders, tls=tls)
        self.app.add_exception_handler(FederationError, self._refused)
        self.app.add_exception_handler(404, self._no_page)
        self.app.add_exception_handler(Exception, self._failed)
        self._route()
        self._ends = [
            desk.switchboard.watch_jobs(self.reading.recent.hear),
            desk.switchboard.watch_jobs(self.figures.hear),
        ]

    def close(self) -> None:
        """End the streams and stop listening to the desk."""
        self.live.close()
        for end in self._ends:
            end()

    def _route(self) -> None:
        page = functools.partial(self.app.add_api_route, response_class=HTMLResponse)
        page("/", self.overview, methods=["GET"])
        page("/hubs/{hub_id}", self.hub, methods=["GET"])
        page("/jobs/{job_id}", self.job, methods=["GET"])
        page("/policy", self.policy, methods=["GET"])
        page("/login", self.login_page, methods=["GET"])
        page("/login", self.login, methods=["POST"])
        page("/logout", self.logout, methods=["POST"])
        page("/jobs/{job_id}/cancel", self.cancel, methods=["POST"])
        page("/hubs/{hub_id}/drain", self.drain, methods=["POST"])
        page("/jobs/{job_id}/results/{path:path}", self.result, methods=["GET"])
        page("/events", self.events, methods=["GET"])
        page("/metrics", self.metrics, methods=["GET"])
        page("/healthz", self.healthz, methods=["GET"])
        self.app.mount("/static", StaticFiles(directory=STATIC), name="static")

    # ---- pages ------------------------------------------------------------------------------------------------------
    async def overview(self, request: Request) -> Response:
        """Hubs, queue, what runs, what ended. With a token in the address, a login that leaves it out again."""
        viewer = viewer_of(request)
        return self._html("overview", viewer, self.pages.overview(await self.reading.overview(viewer)))

    async def hub(self, request: Request, hub_id: str) -> Response:
        """One hub."""
        viewer = viewer_of(request)
        shown = self.pages.hub(await self.reading.hub(viewer, hub_id))
        return self._html("hub", viewer, shown | {"hub_id": hub_id, "may_drain": _may_drain(viewer, hub_id)})

    async def job(self, request: Request, job_id: str) -> Response:
        """One job."""
        viewer = viewer_of(request)
        found = await self.reading.job(viewer, job_id)
        shown = self.pages.job(found)
        return self._html("job", viewer, shown | {"job_id": job_id, "tail": await tail_of(self.desk, found.job)})

    async def policy(self, request: Request) -> Response:
        """The planner's policy in force, and on what terms hubs give their machines."""
        viewer = viewer_of(request)
        own = None if viewer.owner_filter is None else (viewer.principal.home_hub, viewer.principal.subject)
        hubs = (await self.reading.grounds()).hubs
        return self._html("policy", viewer, {"see": policies.view(self.desk.policy, own), "hubs": hubs})

    def _html(self, name: str, viewer: Viewer | None, shown: dict[str, object], status: int = 200) -> HTMLResponse:
        common = {"viewer": None if viewer is None else viewer.principal, "now_ms": self.desk.clock.now_ms()}
        return HTMLResponse(self.pages.page(name, common | shown), status)

    # ---- live -------------------------------------------------------------------------------------------------------
    async def events(
        self, request: Request, page: str = "", name: str = "", attempt: str = "", at: int = 0
    ) -> Response:
        """The stream of one page: `page` overview, hub or job, `name` which hub or job, `attempt` and `at` its log."""
        viewer = viewer_of(request)

        async def overview() -> dict[str, str]:
            self.door.admit(request)
            return self.pages.regions("overview", self.pages.overview(await self.reading.overview(viewer)))

        async def hub() -> dict[str, str]:
            self.door.admit(request)
            return self.pages.regions("hub", self.pages.hub(await self.reading.hub(viewer, name)))

        async def job() -> dict[str, str]:
            self.door.admit(request)
            return self.pages.regions("job", self.pages.job(await self.reading.job(viewer, name)))

        async def owned() -> Job:
            return await self.reading.owned(viewer, name)

        if page == "overview":
            watched = Watched(overview, viewer.sees)
        elif page == "hub":
            await self.reading.hub(viewer, name)
            watched = Watched(hub, lambda changed: changed.hub_id == name)
        elif page == "job":
            await owned()
            watched = Watched(
                job,
                lambda changed: changed.id == name,
                lambda send: follow(self.desk, owned, (attempt, max(0, at)), send),
            )
        else:
            raise invalid(f"there is no page {page[:40]!r}", hint="Use overview, hub or job.", field="page")
        self.live.admit()
        stream: AsyncIterator[bytes] = self.live.stream(watched)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    # ---- doing ------------------------------------------------------------------------------------------------------
    async def cancel(self, request: Request, job_id: str) -> Response:
        """End a job; then its page."""
        viewer = viewer_of(request)
        await self.reading.owned(viewer, job_id)
        store, actor = self.desk.store, viewer.principal.name

        def command(unit: Unit) -> None:
            service_jobs.cancel(unit, service_jobs.find(unit, store, job_id), "cancelled on the console", actor)

        await self.desk.ask(command)
        return RedirectResponse(f"/jobs/{quote(job_id, safe='')}", 303)

    async def drain(self, request: Request, hub_id: str) -> Response:
        """Start nothing new at a hub, or take that back; then its page."""
        viewer = viewer_of(request)
        if not _may_drain(viewer, hub_id):
            raise denied(viewer.principal, f"drain hub {hub_id[:80]}")
        form = await _form(request)
        undo, note, actor = bool(form.get("undo")), form.get("note", "")[:500], viewer.principal.name
        await self.desk.ask(lambda unit: service_hubs.drain(unit, hub_id, note, actor, undo))
        return RedirectResponse(f"/hubs/{quote(hub_id, safe='')}", 303)

    async def result(self, request: Request, job_id: str, path: str) -> Response:
        """On to the object store, by a link that lives for ten minutes: what is on a page stays good."""
        job = await self.reading.owned(viewer_of(request), job_id)
        if path not in {one.path for one in job.outputs} or job.result_epoch is None:
            raise not_found(Code.OBJECT_NOT_FOUND, "file", path[:200], hint="The job's page lists its files.")
        if self.desk.objects is None:
            raise FederationError(
                Code.STORE_UNAVAILABLE,
                "this control plane has no object store",
                fault=Fault.FEDERATION,
                hint="Its operator sets [objects] in the configuration.",
            )
        prefix = f"attempts/{job.id}/{job.result_epoch}/"
        link = await asyncio.to_thread(
            scoped_credentials(self.desk.objects.answering(), prefix, LINK_TTL_S).get_link, path
        )
        return RedirectResponse(link, 302)

    # ---- coming and going -------------------------------------------------------------------------------------------
    async def login_page(self, request: Request, token: str = "", next: str = "/") -> Response:  # noqa: A002  # its name in the address
        """The form; or, with `token`, the login itself: the link that `brhub up` prints."""
        if token and not from_elsewhere(request):
            return self._logged_in(token, next)
        return self._html("login", None, {"next": next, "problem": None})

    async def login(self, request: Request) -> Response:
        """A token for a session."""
        form = await _form(request)
        return self._logged_in(form.get("token", ""), form.get("next", "/"))

    def _logged_in(self, token: str, target: str) -> Response:
        try:
            name = self.door.log_in(token)
        except FederationError as problem:
            return self._html("login", None, {"next": target, "problem": problem}, problem.kind.http)
        response = RedirectResponse(_inside(target), 303)
        self.door.set_cookie(response, name)
        return response

    async def logout(self, request: Request) -> Response:
        """Forget the session."""
        response = RedirectResponse("/login", 303)
        self.door.log_out(request, response)
        return response

    # ---- machines ---------------------------------------------------------------------------------------------------
    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(await self.figures.exposition(), media_type=CONTENT_TYPE)

    async def healthz(self) -> Response:
        """Whether the writer answers."""
        await self.desk.ask(lambda unit: unit.world.incarnation)
        return PlainTextResponse("ok\n")

    # ---- refusals ---------------------------------------------------------------------------------------------------
    async def _admit(self, request: Request) -> None:
        request.state.viewer = self.door.admit(request)

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, FederationError)
        wants_page = "text/html" in request.headers.get("accept", "")
        if not wants_page:
            told = {"code": error.code, "message": error.message, "fault": error.fault, "hint": error.hint}
            return JSONResponse(told | {"metadata": error.metadata}, error.kind.http)
        if error.code is Code.UNAUTHENTICATED and request.method == "GET":
            token = request.query_params.get("token", "")
            if token and not from_elsewhere(request):
                return self._logged_in(token, request.url.path)
            return RedirectResponse(f"/login?next={quote(request.url.path, safe='/')}", 303)
        return self._html("problem", None, {"problem": error}, error.kind.http)

    async def _no_page(self, request: Request, _error: Exception) -> Response:
        return await self._refused(
            request, not_found(Code.OBJECT_NOT_FOUND, "page", request.url.path[:200], hint="Begin at the overview.")
        )

    async def _failed(self, request: Request, error: Exception) -> Response:
        log.error("%s failed for a reason of ours", request.url.path, exc_info=error)
        return await self._refused(
            request,
            FederationError(
                Code.INTERNAL,
                f"the console failed: {type(error).__name__}",
                fault=Fault.FEDERATION,
                hint="It is our mistake; the server's log has the details. Trying again is safe.",
            ),
        )


def viewer_of(request: Request) -> Viewer:
    """Whom the door let in."""
    viewer = request.state.viewer
    assert isinstance(viewer, Viewer), "only public routes have no viewer"
    return viewer


def _may_drain(viewer: Viewer, hub_id: str) -> bool:
    who = viewer.principal
    scope = rule_of("POST /hubs/{hub_id}/drain").reach.get(who.kind)
    return scope is not None and speaks_for(scope, who, hub_id) and (who.kind != "user" or "operator" in who.roles)


def _inside(target: str) -> str:
    """`target` when it is a page of ours, else the first: a login leads nowhere else."""
    parts = urlsplit(target)
    safe = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.netloc and target.isprintable()
    return parts.path if safe else "/"


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form; the last one wins."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_BYTES_MAX:
            raise invalid("the form is too large", code=Code.LIMIT_EXCEEDED, limit=str(FORM_BYTES_MAX))
    try:
        return {name: values[-1] for name, values in parse_qs(body.decode("utf-8"), max_num_fields=20).items()}
    except ValueError:
        raise invalid("the form cannot be read") from None
