"""The ways to print, apart from `show.py` so that declaring the option costs nothing."""

import enum


class Format(enum.StrEnum):
    """How to print."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"
