"""Who is calling, and whether they may: tokens, the authority table, TLS from certificate files.

Loopback unless TLS is on; a token per hub and per user; one default-deny table for every method and route. Deliberately
not here yet: certificates of our own, renewal and signed grants (their fields are in the wire). Nothing is imported here,
so that `tokens` costs no gRPC. Read next: `authority.py`.
"""
