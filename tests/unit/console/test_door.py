"""Who gets in, how far, and by what: tokens, sessions, forms."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import Mount, Route

from federation.console import ConsoleServer
from federation.console.door import SESSION_MS, SESSIONS_MAX, Sessions
from federation.domain.job import JobState
from federation.errors import Code, FederationError
from federation.identity.authority import HTTP_RULES
from federation.identity.principal import PrincipalKind
from federation.identity.tls import TlsFiles
from federation.identity.tokens import TokenFile
from tests.support.certificates import CertificateAuthority
from tests.support.console import ADMIN, AISHA, CAIRO, OMAR, Console, a_console
from tests.support.world import SetClock


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Console]:
    """A console with one hub."""
    async with a_console(tmp_path) as running:
        running.hub()
        yield running


async def test_the_table_and_the_routes_are_the_same(console: Console) -> None:
    """A route without a row could be called by nobody; a row without a route misleads its reader."""
    routes = set()
    for route in console.server.site.app.routes:
        if isinstance(route, Mount):
            routes.add(f"GET {route.path}")
        elif isinstance(route, Route):
            routes |= {f"{method} {route.path}" for method in route.methods or () if method != "HEAD"}
    assert routes == set(HTTP_RULES)


async def test_a_stranger_finds_the_login_and_nothing_else(console: Console) -> None:
    """Browsers are sent to the login, programs hear UNAUTHENTICATED."""
    async with console.client(None) as browser:
        for path in ("/", "/hubs/cairo", "/jobs/job-1", "/jobs/job-1/results/x", "/metrics"):
            answer = await browser.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path}")
            answer = await browser.get(path, headers={"accept": "*/*"})
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
        assert (await browser.get("/events?page=overview", headers={"accept": "text/event-stream"})).status_code == 401
        assert (await browser.get("/login")).status_code == 200
        assert (await browser.get("/healthz")).text == "ok\n"
        assert (await browser.get("/static/console.css")).status_code == 200


async def test_a_login_gives_a_cookie_that_scripts_and_other_sites_cannot_use(console: Console) -> None:
    """HttpOnly, SameSite=Strict, and named by the port; with it every page opens, after sign-out none."""
    token = console.tokens.issue(AISHA)
    async with console.client(None) as browser:
        own = {"origin": console.url}
        answer = await browser.post("/login", data={"token": f" {token} ", "next": "/hubs/cairo"}, headers=own)
        assert (answer.status_code, answer.headers["location"]) == (303, "/hubs/cairo")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"brhub-{console.port}=")
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert token not in cookie
        assert (await browser.get("/hubs/cairo")).status_code == 200
        assert (await browser.post("/logout", headers=own)).status_code == 303
        assert (await browser.get("/hubs/cairo")).status_code == 303


async def test_the_printed_link_signs_in_and_leaves_the_token_behind(console: Console) -> None:
    """At the login's address and at the first page's; not when another site's page sent the browser there."""
    token = console.tokens.issue(AISHA)
    for path in ("/login", "/"):
        async with console.client(None) as browser:
            answer = await browser.get(path, params={"token": token})
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
            assert (await browser.get("/")).status_code == 200
    async with console.client(None) as browser:
        answer = await browser.get("/login", params={"token": token}, headers={"sec-fetch-site": "cross-site"})
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("target", ["https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere", "x", ""])
async def test_a_login_leads_nowhere_else(console: Console, target: str) -> None:
    """What is not a path of ours becomes the first page."""
    async with console.client(None) as browser:
        answer = await browser.get("/login", params={"token": console.tokens.issue(AISHA), "next": target})
        assert answer.headers["location"] == "/"


async def test_a_wrong_token_is_told_so_on_the_page(console: Console) -> None:
    """With its code, and without a cookie; an agent's token opens no pages."""
    own = {"origin": console.url}
    async with console.client(None) as browser:
        answer = await browser.post("/login", data={"token": "brhub_user_x"}, headers=own)
        assert answer.status_code == 401
        assert "UNAUTHENTICATED" in answer.text
        assert "set-cookie" not in answer.headers
        answer = await browser.post("/login", data={"token": console.tokens.issue(CAIRO)}, headers=own)
        assert (answer.status_code, "PERMISSION_DENIED" in answer.text) == (403, True)
        answer = await browser.post("/login", content=b"x" * 10_000, headers=own)
        assert answer.status_code == 400


async def test_a_revoked_token_ends_its_sessions_at_once(console: Console) -> None:
    """Also a live stream: the next tick says so and ends."""
    async with console.client(None) as browser:
        await browser.get("/login", params={"token": console.tokens.issue(AISHA)})
        async with browser.stream("GET", "/events?page=overview") as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if line == "event: now":
                    break
            console.tokens.revoke(PrincipalKind.USER, "local", "aisha")
            assert "event: bye" in [line async for line in lines]
        assert (await browser.get("/")).status_code == 303
        assert (await browser.get("/login")).status_code == 200


async def test_users_see_their_own_jobs_and_admins_all(console: Console) -> None:
    """Somebody else's job answers as if it were not there: its page, its stream, its files, its end."""
    job_id = console.submit("r1", AISHA, name="secret-study", hubs_deny=("cairo",))
    for who, status in ((AISHA, 200), (OMAR, 404), (ADMIN, 200)):
        async with console.client(who) as browser:
            assert (await browser.get(f"/jobs/{job_id}")).status_code == status
            assert ("secret-study" in (await browser.get("/")).text) is (status == 200)
    async with console.client(OMAR) as browser:
        assert (await browser.get(f"/events?page=job&name={job_id}")).status_code == 404
        assert (await browser.get(f"/jobs/{job_id}/results/x")).status_code == 404
        assert (await browser.post(f"/jobs/{job_id}/cancel")).status_code == 404
    assert console.job(job_id).state is not JobState.CANCELLED


async def test_a_hubs_page_names_only_the_viewers_own_jobs(console: Console) -> None:
    """What is leased can be seen by every member; whose it is, and what it does, cannot."""
    job_id = console.submit("r1", AISHA, name="secret-study")
    console.hubs["cairo/main"].wait_for_lease(job_id)
    for who, named in ((AISHA, True), (OMAR, False), (CAIRO, False), (ADMIN, True)):
        async with console.client(who) as browser:
            text = (await browser.get("/hubs/cairo")).text
            assert ("secret-study" in text, job_id in text, "aisha" in text.split("<main")[1]) == (named,) * 3
            assert ("not yours to see" in text) is not named


async def test_forms_of_other_sites_are_refused(console: Console) -> None:
    """A cookie alone ends no job: the form must come from a page of ours. A script's own header is enough."""
    job_id = console.submit("r1", AISHA, hubs_deny=("cairo",))
    async with console.client(None) as browser:
        await browser.get("/login", params={"token": console.tokens.issue(AISHA)})
        for headers in (
            {}, {"origin": "https://elsewhere.example"}, {"origin": "null"},
            {"origin": console.url, "sec-fetch-site": "cross-site"}, {"origin": f"{console.url}.example"},
        ):  # fmt: skip
            answer = await browser.post(f"/jobs/{job_id}/cancel", headers=headers)
            assert answer.status_code == 403
        assert console.job(job_id).state is JobState.QUEUED
        answer = await browser.post(f"/jobs/{job_id}/cancel", headers={"origin": console.url})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job_id}")
    assert console.job(job_id).state is JobState.CANCELLED
    other = console.submit("r2", AISHA, hubs_deny=("cairo",))
    async with console.client(AISHA) as script:
        assert (await script.post(f"/jobs/{other}/cancel")).status_code == 303
    assert console.job(other).state is JobState.CANCELLED


async def test_operators_drain_their_own_hub(console: Console) -> None:
    """And take that back; nobody else finds the button or may use it."""
    for who, may in ((AISHA, False), (OMAR, True), (ADMIN, True)):
        async with console.client(who) as browser:
            assert ('action="/hubs/cairo/drain"' in (await browser.get("/hubs/cairo")).text) is may
            answer = await browser.post("/hubs/cairo/drain", data={"note": "new <disks>"})
            assert answer.status_code == (303 if may else 403)
            if may:
                assert "new &lt;disks&gt;" in (await browser.get("/hubs/cairo")).text
                await browser.post("/hubs/cairo/drain", data={"undo": "1"})
                assert "draining" not in (await browser.get("/hubs/cairo")).text
    console.hub("shenzhen")
    async with console.client(OMAR) as browser:
        assert (await browser.post("/hubs/shenzhen/drain")).status_code == 403


def test_sessions_end_by_time_and_by_number() -> None:
    """A session that is used lives on; the least lately used gives way."""
    clock = SetClock()
    sessions = Sessions(clock)
    used, idle = sessions.open("token-1"), sessions.open("token-2")
    clock.at_ms += SESSION_MS - 1
    assert sessions.token_of(used) == "token-1"
    clock.at_ms += 2
    assert (sessions.token_of(used), sessions.token_of(idle)) == ("token-1", "")
    for number in range(SESSIONS_MAX):
        sessions.open(f"token-{number}")
    assert sessions.token_of(used) == ""
    assert sessions.token_of("x" * 100_000) == ""


async def test_the_clear_stays_on_loopback(console: Console, tmp_path: Path) -> None:
    """Off loopback without TLS is refused; so is an address that is taken or is none."""
    tokens = TokenFile.create(tmp_path / "tokens.json")
    with pytest.raises(FederationError) as refused:
        ConsoleServer(console.desk, tokens, "0.0.0.0:0", None)
    assert refused.value.code is Code.TLS_REQUIRED
    for address in (f"127.0.0.1:{console.port}", "localhost:http-ish", "127.0.0.1:99999"):
        with pytest.raises(FederationError) as refused:
            await ConsoleServer(console.desk, tokens, address, None).start()
        assert refused.value.code is Code.CONFIGURATION_INVALID


async def test_with_tls_the_cookie_stays_on_it(console: Console, tmp_path: Path) -> None:
    """Secure and bound to this host; browsers are told to come by TLS only; a broken certificate is told at the start."""
    authority = CertificateAuthority(tmp_path)
    made = authority.server()
    files = TlsFiles(made.certificate, made.key)
    server = ConsoleServer(console.desk, console.tokens, "localhost:0", files)
    port = await server.start()
    trust = ssl.create_default_context(cafile=str(authority.ca_file))
    try:
        async with httpx.AsyncClient(base_url=f"https://localhost:{port}", verify=trust) as browser:
            answer = await browser.get("/login", params={"token": console.tokens.issue(AISHA)})
            assert answer.headers["set-cookie"].startswith(f"__Host-brhub-{port}=")
            assert "; Secure" in answer.headers["set-cookie"]
            assert "strict-transport-security" in answer.headers
            assert (await browser.get("/")).status_code == 200
    finally:
        await server.stop()
    made.key.write_text("nothing that a key would be")
    with pytest.raises(FederationError) as refused:
        await ConsoleServer(console.desk, console.tokens, "localhost:0", files).start()
    assert refused.value.code is Code.CONFIGURATION_INVALID
