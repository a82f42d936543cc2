"""Tokens: shown once, kept as hashes, read again when the file changes, refused when anything is odd."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import Code, FederationError
from federation.identity.principal import LOCAL_ISSUER, Principal, PrincipalKind
from federation.identity.tokens import TOKEN_CHARS_MAX, TokenFile, bearer, mint_token, token_from, token_hash

AISHA = Principal(PrincipalKind.USER, LOCAL_ISSUER, "aisha", "kuala-lumpur", ("default", "delays"), ("operator",))
CAIRO = Principal(PrincipalKind.HUB, LOCAL_ISSUER, "agent", "cairo")


def refused(tokens: TokenFile, token: str) -> Code:
    """The code with which a token is refused."""
    with pytest.raises(FederationError) as caught:
        tokens.lookup(token)
    return caught.value.code


def test_a_token_stands_for_its_principal_and_is_not_kept(tmp_path: Path) -> None:
    """The file holds the hash only, is its owner's, and another reader of it knows the token too."""
    path = tmp_path / "dir" / "tokens.json"
    tokens = TokenFile.create(path)
    token = tokens.issue(AISHA)
    other = tokens.issue(CAIRO)
    assert (tokens.lookup(token), tokens.lookup(other)) == (AISHA, CAIRO)
    assert TokenFile(path).lookup(token) == AISHA
    assert token not in path.read_text()
    assert token_hash(token) in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tokens.principals() == (CAIRO, AISHA)
    assert TokenFile.create(path).lookup(token) == AISHA
    assert [item.name for item in path.parent.iterdir()] == ["tokens.json"]


def test_what_many_write_at_once_is_all_kept(tmp_path: Path) -> None:
    """Each with a file of its own, as processes have: nobody's token is lost, and nobody's comes back."""
    path = tmp_path / "tokens.json"
    TokenFile.create(path).issue(CAIRO)
    people = [replace(AISHA, subject=f"aisha-{n}") for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        revoking = pool.submit(TokenFile(path).revoke, CAIRO.kind, CAIRO.issuer, CAIRO.subject)
        issued = list(pool.map(lambda who: TokenFile(path).issue(who), people))
        assert revoking.result() == 1
    assert [TokenFile(path).lookup(token) for token in issued] == people
    assert TokenFile(path).held() == dict.fromkeys(sorted(people, key=lambda who: who.name), 1)


def test_randomness_is_an_argument() -> None:
    """The token says what it is for; its chance comes from the caller."""
    assert mint_token(PrincipalKind.HUB, lambda size: f"chance{size}") == "brhub_hub_chance32"
    assert mint_token(PrincipalKind.USER) != mint_token(PrincipalKind.USER)


def test_unknown_and_odd_tokens_are_refused(tmp_path: Path) -> None:
    """Empty, long, nearly right, not text."""
    tokens = TokenFile.create(tmp_path / "tokens.json")
    token = tokens.issue(AISHA)
    for odd in ("", token + "x", token[:-1], token.upper(), "x" * (TOKEN_CHARS_MAX + 1), token_hash(token), "\ud800"):
        assert refused(tokens, odd) is Code.UNAUTHENTICATED


def test_a_change_by_another_process_is_seen(tmp_path: Path) -> None:
    """Issued and revoked elsewhere, effective here at the next call."""
    here, there = TokenFile.create(tmp_path / "tokens.json"), TokenFile(tmp_path / "tokens.json")
    first, second = there.issue(AISHA), there.issue(AISHA)
    assert here.lookup(first) == here.lookup(second) == AISHA
    assert there.revoke(PrincipalKind.USER, LOCAL_ISSUER, "nobody") == 0
    assert there.revoke(PrincipalKind.USER, LOCAL_ISSUER, "aisha") == 2
    assert refused(here, first) is refused(here, second) is Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"version": 2, "tokens": []}',
        '{"version": 1, "tokens": {}}',
        '{"version": 1, "tokens": [], "more": 1}',
        '{"version": 1, "tokens": [1]}',
        '{"version": 1, "tokens": [{"sha256": "00"}]}',
        '{"version": 1, "tokens": [{"sha256": "zz", "kind": "", "issuer": "", "subject": "", "home_hub": "", "projects": [], "roles": []}]}',
    ],
)
def test_a_broken_file_denies_everybody(tmp_path: Path, text: str) -> None:
    """Also those it knew before it broke; and it is not a token's fault."""
    path = tmp_path / "tokens.json"
    tokens = TokenFile.create(path)
    token = tokens.issue(AISHA)
    path.write_text(text)
    assert refused(tokens, token) is Code.CONFIGURATION_INVALID
    assert refused(tokens, token) is Code.CONFIGURATION_INVALID
    path.unlink()
    assert refused(tokens, token) is Code.CONFIGURATION_INVALID


def test_a_principal_is_somebody() -> None:
    """A user has a hub; names are names; an admin needs no hub."""
    assert Principal(PrincipalKind.ADMIN, LOCAL_ISSUER, "root", "").name == "admin:local/root@"
    wrong = [("local", "aisha", ""), ("local", "aisha", "Cairo!"), ("local", "", "cairo"), ("a\nb", "aisha", "cairo")]
    for issuer, subject, home_hub in [*wrong, ("local", "x" * 300, "cairo")]:
        with pytest.raises(FederationError) as caught:
            replace(AISHA, issuer=issuer, subject=subject, home_hub=home_hub)
        assert caught.value.code is Code.CONFIGURATION_INVALID


def test_the_token_travels_in_one_header() -> None:
    """Found again whatever its case; two of them, or another scheme, are none."""
    assert token_from([("x", "y"), bearer("secret")]) == "secret"
    assert token_from([("Authorization", "bearer secret")]) == "secret"
    assert (
        token_from([]) == token_from([("authorization", "Basic eA==")]) == token_from([bearer("a"), bearer("b")]) == ""
    )
