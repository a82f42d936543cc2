"""`brhub token issue`, `list` and `revoke` for whoever runs the control plane, and `brhub login` for whoever got a token.

The first three work on the control plane's token file, on its machine: who may write that file may let people in, and
nobody else. A running control plane knows of the change at the next call. Deliberately not here: the file
(`federation/identity/tokens.py`), and what each kind of caller may do (`federation/identity/authority.py`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.format import Format
from federation.cli.session import say, session_of
from federation.errors import Code, Fault, FederationError, invalid, not_found

if TYPE_CHECKING:
    from federation.app.settings import Settings
    from federation.identity.principal import Principal
    from federation.identity.tokens import TokenFile

CONTROL_FILE = "control.toml"
EMBEDDED_FILE = "federation.json"
KINDS = ("user", "hub", "admin")
TOKEN_CHARS_READ = 1_000

Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The control plane's settings (control.toml in BRHUB_DIR, default .brhub)."),
]
Kind = Annotated[str, typer.Option(help="user, a person; hub, an agent of the hub NAME; admin, an operator of all.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Who: a person's name, or a hub's id with --kind hub.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    noun = typer.Typer(no_args_is_help=True, help="Who may call: tokens of people and agents.")
    noun.command("issue")(issue)
    noun.command("list")(list_tokens)
    noun.command("revoke")(revoke)
    app.add_typer(noun, name="token")
    app.command("login")(login)


def issue(  # noqa: PLR0913  # one argument a flag
    context: typer.Context,
    name: Name,
    *,
    hub: Annotated[str, typer.Option(metavar="HUB", help="The hub that vouches for them: theirs.")] = "",
    projects: Annotated[
        str, typer.Option(metavar="P,...", help="Projects they may count work to, with commas; else only `default`.")
    ] = "",
    operator: Annotated[bool, typer.Option("--operator", help="They run their hub: they may drain it.")] = False,
    kind: Kind = "user",
    into: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write it there for them, as BRHUB_DIR; print no token.")
    ] = None,
    config: Config = None,
) -> None:
    """Let somebody in: make a token, and show it once.

    Only its hash is kept.

    \b
    brhub token issue aisha --hub cairo --projects vision,default
    BRHUB_TOKEN=... brhub --server HOST:PORT jobs     # or, to have it kept: brhub --server HOST:PORT login
    """  # noqa: D301  # \b is typer's mark for lines that stay as they are
    from federation.cli.show import print_one
    from federation.identity.principal import OPERATOR
    from federation.identity.tokens import TokenFile

    session, settings = session_of(context), control_settings(config)
    if session.form is Format.NAME and into is None:
        raise invalid("-o name would lose the token", hint="Leave it out, or add --into FOLDER.", field="output")
    if operator and kind != "user":
        raise invalid("--operator goes with --kind user", hint="An admin runs every hub anyway.", field="operator")
    # `--project P` before or after the command is the global option; here it can only mean one more of these
    named = dict.fromkeys(text.strip() for text in [*projects.split(","), session.project] if text.strip())
    who = _principal(kind, name, hub, tuple(named), (OPERATOR,) if operator else ())
    tokens = TokenFile.create(Path(settings.server.tokens_file))
    _check_new(tokens, who)
    place = None if into is None else _client_folder(into)  # before the token is made: it could not be shown again
    token = tokens.issue(who)
    value = {**_document(who), "token": token}
    text = token
    if place is not None:
        del value["token"]
        value["file"] = text = str(_leave(place, session.server or settings.server.listen, token, settings, who))
    print_one(value, session.form, text=text)
    if session.for_people:
        say(f"{who.name} may call from now on" + ("" if into else "; the token cannot be shown again"))


def list_tokens(context: typer.Context, config: Config = None) -> None:
    """List who has a token. The tokens themselves are kept nowhere."""
    from federation.cli import tables
    from federation.cli.show import print_many

    session = session_of(context)
    held = _tokens(control_settings(config)).held()
    table = tables.table(["NAME", "KIND", "HUB", "PROJECTS", "ROLES", ">TOKENS"])
    for who, count in held.items():
        projects = {"hub": "", "admin": "all"}.get(who.kind, ", ".join(_projects(who)))
        words = (who.subject, who.kind.value, who.home_hub, projects, ", ".join(who.roles))
        table.add_row(*(tables.plain(word) or "-" for word in words), str(count))
    print_many([{**_document(who), "tokens": count} for who, count in held.items()], session.form, table)


def revoke(context: typer.Context, name: Name, *, kind: Kind = "user", config: Config = None) -> None:
    """End every token of somebody.

    At once: their next call is refused. Their jobs go on. Those that `brhub up` made for its own user and agents come back with the next `up`.
    """
    from federation.cli.show import print_one
    from federation.identity.principal import LOCAL_ISSUER, PrincipalKind

    session = session_of(context)
    tokens = _tokens(control_settings(config))
    ended = tokens.revoke(PrincipalKind(_known(kind)), LOCAL_ISSUER, name)
    if not ended:
        others = [who.kind.value for who in tokens.principals() if who.subject == name]
        hint = f"There is one of --kind {others[0]}." if others else "`brhub token list` shows who has one."
        raise not_found(Code.PRINCIPAL_NOT_FOUND, f"token of {kind}", name[:80], hint=hint)
    text = f"ended {ended} {'token' if ended == 1 else 'tokens'} of {kind} {name}"
    print_one({"id": name, "kind": kind, "ended": ended}, session.form, text=text)


def login(context: typer.Context) -> None:
    """Keep the token that your operator gave you.

    In BRHUB_DIR (default .brhub), whose calls then carry it.

    \b
    brhub --server HOST:PORT login        # asks for the token; in a script it is read from standard input

    BRHUB_CA, where it is set, is kept too.
    """  # noqa: D301  # as above
    from federation.cli.show import print_one
    from federation.client import Client, Settings
    from federation.client.settings import FOLDER, write_settings

    session = session_of(context)
    server = session.server or os.environ.get("BRHUB_SERVER", "")
    if not server:
        raise invalid("no server is named", hint="Write brhub --server HOST:PORT login.", field="server")
    folder = _client_folder(Path(os.environ.get("BRHUB_DIR") or FOLDER))
    settings = Settings(
        server,
        _read_token(),
        os.environ.get("BRHUB_CA", ""),
        project=session.project or "default",
        proxy=os.environ.get("BRHUB_PROXY", ""),
    )
    with Client(settings) as client:
        client.list_hubs()  # so that a wrong token is told now, and not kept
    path = write_settings(folder, settings)
    print_one({"id": server, "file": str(path)}, session.form, text=f"{path} has it; BRHUB_DIR={folder} finds it")


# ---- the parts --------------------------------------------------------------------------------------------------------
def control_settings(config: Path | None) -> Settings:
    """The control plane's settings, on its machine. Raises: FederationError where there are none."""
    from federation.app.settings import read_settings
    from federation.client.settings import FOLDER

    file = config or Path(os.environ.get("BRHUB_DIR") or FOLDER) / CONTROL_FILE
    if not file.is_file():
        raise invalid(
            f"there are no settings of a control plane in {str(file)!r}",
            hint="This works on the control plane's machine: name its control.toml with --config.",
            code=Code.CONFIGURATION_INVALID,
            path=str(file),
        )
    return read_settings(file, os.environ)


def _tokens(settings: Settings) -> TokenFile:
    from federation.identity.tokens import TokenFile

    return TokenFile(Path(settings.server.tokens_file))


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise invalid(f"kind {kind[:40]!r} is unknown", hint=f"Use one of {', '.join(KINDS)}.", field="kind")
    return kind


def _principal(kind: str, name: str, hub: str, projects: tuple[str, ...], roles: tuple[str, ...]) -> Principal:
    from federation.identity.principal import LOCAL_ISSUER, Principal, PrincipalKind

    if kind == "user" and not hub:
        raise invalid("--hub is missing", hint="Name the hub that vouches for this person.", field="hub")
    if kind == "hub" and (projects or hub not in ("", name)):
        raise invalid("an agent has no --projects and no other --hub", hint="NAME is its hub's id.", field="hub")
    return Principal(PrincipalKind(_known(kind)), LOCAL_ISSUER, name, name if kind == "hub" else hub, projects, roles)


def _check_new(tokens: TokenFile, who: Principal) -> None:
    """One name is one person: jobs belong to (issuer, subject), whatever hub is written beside it."""
    known = tokens.principals()
    for other in known:
        same = (other.issuer, other.subject) == (who.issuer, who.subject)
        if same and (other.kind, other.home_hub) != (who.kind, who.home_hub):
            raise FederationError(
                Code.IDENTITY_IN_USE,
                f"{who.subject!r} is {other.name} already",
                fault=Fault.CALLER,
                hint="Choose another name: jobs belong to a name, so two people need two.",
                metadata={"subject": who.subject, "principal": other.name},
            )
    hubs = sorted({other.home_hub for other in known if other.kind == "hub"})
    if who.kind != "hub" and who.home_hub and who.home_hub not in hubs:
        raise not_found(
            Code.HUB_NOT_FOUND,
            "hub",
            who.home_hub,
            hint=f"These have agents' tokens here: {', '.join(hubs) or 'none'}. `brhub token issue HUB --kind hub` adds one.",
        )


def _client_folder(folder: Path) -> Path:
    """A folder of one's own for client.json, made where it is missing."""
    if (folder / EMBEDDED_FILE).exists():
        raise invalid(
            f"the federation of `brhub up` lives in {str(folder)!r}, with its own client.json",
            hint="Choose another folder: BRHUB_DIR=FOLDER brhub login, or --into FOLDER.",
            folder=str(folder),
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder.absolute()


def _leave(folder: Path, server: str, token: str, settings: Settings, who: Principal) -> Path:
    from federation.client import Settings as ClientSettings
    from federation.client.settings import write_settings

    console = f"http://{settings.server.console_listen}" if settings.server.console_listen else ""
    if settings.tls_files is not None:
        console = console.replace("http:", "https:", 1)
    return write_settings(folder, ClientSettings(server, token, "", console, _projects(who)[0]))


def _read_token() -> str:
    from getpass import getpass

    given = os.environ.get("BRHUB_TOKEN", "")
    if not given:
        given = getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline(TOKEN_CHARS_READ)
    if not given.strip():
        raise invalid("there is no token", hint="Paste it at the prompt, or pipe it in.", field="token")
    return given.strip()


def _projects(who: Principal) -> tuple[str, ...]:
    """What work may be counted to, as `authority.may_charge` has it."""
    return who.projects or ("default",)


def _document(who: Principal) -> dict[str, Any]:
    return {
        "id": who.name,
        "kind": who.kind.value,
        "issuer": who.issuer,
        "subject": who.subject,
        "home_hub": who.home_hub,
        "projects": list(_projects(who)),
        "roles": list(who.roles),
    }
