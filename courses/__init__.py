"""Courses and the way a student comes to a lab: catalogue, spawn page, JupyterHub spawner. Stands on the ground only."""
