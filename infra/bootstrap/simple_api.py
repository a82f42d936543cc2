"""A small client of the simple repository API (PEP 503 pages, PEP 691 JSON): list a project's files, pick, fetch, verify.

For machines without pip, and for `lock`, which notes how many bytes each package costs. Proxies and private
certificate authorities are honoured. Not here: dependencies, building from source.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from infra.bootstrap.index import IndexSettings, hide_password
from infra.bootstrap.trouble import BootstrapError

ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.2"
PAGE_BYTES_MAX = 64 << 20
FILE_BYTES_MAX = 512 << 20
TIMEOUT_S = 60


class IndexFile(NamedTuple):
    """One file of a project. `size_bytes` is 0 where the index does not say."""

    name: str
    url: str
    sha256: str
    size_bytes: int = 0


class LinkReader(HTMLParser):
    """Collects (text, href) of the anchors of a PEP 503 page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self._href = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember where the anchor points."""
        if tag == "a":
            self._href = dict(attrs).get("href") or ""

    def handle_data(self, data: str) -> None:
        """The anchor's text is the file's name."""
        if self._href and data.strip():
            self.links.append((data.strip(), self._href))
            self._href = ""


def normalise(project: str) -> str:
    """The project's name as PEP 503 spells it in addresses."""
    return re.sub(r"[-_.]+", "-", project).lower()


def parse_page(body: bytes, content_type: str, page_url: str) -> list[IndexFile]:
    """The files on a project page, JSON or HTML.

    Raises:
        BootstrapError: the page is neither.
    """
    if "json" in content_type:
        try:
            files = json.loads(body)["files"]
            return [
                IndexFile(
                    str(file["filename"]),
                    urllib.parse.urljoin(page_url, file["url"]),
                    str(file.get("hashes", {}).get("sha256", "")),
                    int(file.get("size") or 0),
                )
                for file in files
                if not file.get("yanked")
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BootstrapError(
                f"the package index answered something unreadable at {hide_password(page_url)}"
            ) from error
    reader = LinkReader()
    reader.feed(body.decode("utf-8", "replace"))
    found = []
    for name, href in reader.links:
        url, _, fragment = urllib.parse.urljoin(page_url, href).partition("#")
        digest = urllib.parse.parse_qs(fragment).get("sha256", [""])[0]
        found.append(IndexFile(name, url, digest))
    return found


def open_url(
    url: str, settings: IndexSettings, accept: str = "*/*", size_max: int = FILE_BYTES_MAX
) -> tuple[bytes, str]:
    """GET `url`: (body, content type). Bodies over `size_max` bytes are refused.

    Raises:
        BootstrapError: it cannot be reached, with the reason.
    """
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if settings.proxy:
        handlers.append(urllib.request.ProxyHandler({"http": settings.proxy, "https": settings.proxy}))
    parts = urllib.parse.urlsplit(url)
    if parts.username:
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        bare = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        passwords.add_password(None, bare, user, password, is_authenticated=True)
        handlers.append(urllib.request.HTTPBasicAuthHandler(passwords))
        url = bare
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(urllib.request.Request(url, headers={"Accept": accept}), timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read(size_max + 1)
            content_type = str(answer.headers.get("Content-Type", ""))
    except (OSError, ValueError) as error:
        raise BootstrapError(f"cannot reach {hide_password(url)}: {error}") from error
    if len(body) > size_max:
        raise BootstrapError(f"{hide_password(url)} is larger than {size_max >> 20} MB")
    return body, content_type


def list_files(project: str, settings: IndexSettings) -> list[IndexFile]:
    """All files that the configured default index has of `project`.

    Raises:
        BootstrapError: no index is configured, or it does not answer.
    """
    if not settings.default:
        raise BootstrapError("no package index is configured")
    page = settings.default.rstrip("/") + "/" + normalise(project) + "/"
    body, content_type = open_url(page, settings, ACCEPT, PAGE_BYTES_MAX)
    return parse_page(body, content_type, page)


def platform_score(tags: str, machine: str, system: str) -> int:
    """How well a wheel's platform tags fit this machine: 0 not at all, more is better.

    musl builds are refused on glibc systems and the other way round; among glibc builds the older baseline wins,
    since it runs everywhere.
    """
    best = 0
    for tag in tags.split("."):
        if tag == "any":
            best = max(best, 1)
        elif not tag.endswith("_" + machine) and not tag.endswith("_universal2"):
            continue
        elif system == "linux" and tag.startswith("manylinux"):
            best = max(best, 3)
        elif (system == "linux-musl" and tag.startswith("musllinux")) or (
            system == "darwin" and tag.startswith("macosx")
        ):
            best = max(best, 2)
    return best


def this_system() -> tuple[str, str]:
    """(machine, system) in the words of wheel tags."""
    machine = platform.machine().lower().replace("amd64", "x86_64")
    if sys.platform == "darwin":
        return machine, "darwin"
    return machine.replace("arm64", "aarch64"), "linux" if platform.libc_ver()[0] == "glibc" else "linux-musl"


def pick_wheel(files: list[IndexFile], version: str, python: str, machine: str, system: str) -> IndexFile | None:
    """The wheel of `version` for a Python such as "311"; None where there is none."""
    best: tuple[int, IndexFile] | None = None
    for file in files:
        if not file.name.endswith(".whl"):
            continue
        parts = file.name[:-4].split("-")
        if len(parts) not in (5, 6) or parts[1] != version:
            continue
        interpreter, abi, platforms = parts[-3:]
        native = interpreter == "cp" + python and abi == "cp" + python
        stable = abi == "abi3" and any(
            p.startswith("cp3") and int(p[3:]) <= int(python[1:]) for p in interpreter.split(".")
        )
        pure = abi == "none" and bool({"py3", "py2", "cp" + python, "py" + python} & set(interpreter.split(".")))
        score = platform_score(platforms, machine, system)
        if score and (native or stable or pure) and (best is None or score > best[0]):
            best = (score, file)
    return best[1] if best else None


def fetch(file: IndexFile, allowed_sha256: set[str], target: Path, settings: IndexSettings) -> Path:
    """Download `file` to `target` after its digest was found among `allowed_sha256`.

    Raises:
        BootstrapError: the digest is another one; nothing is kept then.
    """
    body, _ = open_url(file.url, settings)
    digest = hashlib.sha256(body).hexdigest()
    if digest not in allowed_sha256 or (file.sha256 and file.sha256 != digest):
        raise BootstrapError(f"{file.name} has the SHA-256 {digest}, which infra/locks does not list: refused")
    target.write_bytes(body)
    return target
