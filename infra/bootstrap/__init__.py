"""What a bare machine needs before anything of ours can run: uv, a Python, the locked packages, Java, Node.

Standard library only, Python 3.8 and later, because it runs before there is an environment. It imports nothing from
the rest of the repository and never needs root; it writes into the checkout and `~/.cache` only. `run` is its door.
Two modules run inside the environment instead and may use its packages: `contracts` (import rules) and `proto`
(wire rules). Read `environment` first.
"""
