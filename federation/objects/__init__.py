"""Objects: the S3 adapter, links for those who hold no key, the embedded server, and sample data.

Only the S3 dialect is spoken, never a server's admin API. Nothing is imported here: the `minio` client costs 0.8 s, and
agents and clients need only `links`. Deliberately not here: manifests and digests of folders (`federation/archive`), and
who may read what (`federation/policy`). Read next: `store.py`.
"""
