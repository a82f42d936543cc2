"""A version of tomorrow: our revisions and two more, the second of which takes away what programs of today need.

Not here: what is tested with it (`tests/migration`, and the store's contract, which today's program keeps on its schema).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from federation.store import migrations, schema, sqlite

PRE, POST = "9001", "9002"
_PRE = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "{pre}", "{head}", None, None
phase, runs_with = "pre", "{head}"

def upgrade():
    for table in ("jobs", "specs", "leases", "hubs", "agents", "events", "requests", "usage"):
        op.add_column(table, sa.Column("mood", sa.Text(), nullable=False, server_default="calm"))
        op.add_column(table, sa.Column("weight", sa.BigInteger(), nullable=True))
    op.create_index("jobs_mood", "jobs", ["mood"])
    op.create_table(
        "moods",
        sa.Column("job_id", sa.Text(), sa.ForeignKey("jobs.id", deferrable=True, initially="DEFERRED"), primary_key=True),
        sa.Column("mood", sa.Text(), nullable=False),
    )
    op.execute("INSERT INTO moods SELECT id, progress FROM jobs")
"""
_POST = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "{post}", "{pre}", None, None
phase, runs_with = "post", "{pre}"

def upgrade():
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("progress")
"""


def scripts_of_tomorrow(folder: Path, *, unfinished: bool = False) -> Path:
    """The revisions; `unfinished`: and a third, pre again, so that the post part lies on the way."""
    scripts = folder / "scripts"
    shutil.copytree(migrations.VERSIONS / "versions", scripts / "versions")
    names = {"head": schema.HEAD, "pre": PRE, "post": POST}
    (scripts / "versions" / "r9001_pre.py").write_text(_PRE.format(**names))
    (scripts / "versions" / "r9002_post.py").write_text(_POST.format(**names))
    if unfinished:
        text = 'revision, down_revision, branch_labels, depends_on = "9003", "9002", None, None\ndef upgrade(): ...'
        (scripts / "versions" / "r9003_pre.py").write_text(text)
    return scripts


def upgrade_file(path: Path, scripts: Path, *, finish: bool = False, to: str = "") -> None:
    """As that version's `brhub db upgrade` does to a file."""
    connection = sqlite.connect(path)
    try:
        migrations.upgrade_sqlite(connection, str(path), scripts, finish=finish, to=to)
    finally:
        connection.close()
