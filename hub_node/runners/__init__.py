"""Engines: each room starts, watches and ends runs of one engine; `guard.py` holds every process to its deadline."""
