"""Whose turn it is: three heaps, hubs, in each its projects, in each its users, by weighted dominant share.

Shares only grow, and only of who was just served, so the top of a heap is replaced and sinks, and nothing else moves.
Ranks are (dominant share / weight, dominant use so far / weight, place of the name). Not here: what is served.
"""

from __future__ import annotations

from typing import NamedTuple

from federation.scheduling.kernels.jit import lean
from federation.scheduling.kernels.room import Float64, Int32, Int64


class Levels(NamedTuple):
    """Hubs, projects and users in one numbering (L): where each stands among its siblings."""

    share: Float64
    """(L, T) of each resource, held and in use lately, over what is offered. Grows while a round goes on."""
    weight: Float64
    """(L,)"""
    use: Float64
    """(L,) dominant use so far, weighted: breaks ties."""
    name: Int64
    """(L,) place of the name among all names of its level: breaks the last ties."""
    parent: Int32
    """(L,) a user's project, a project's hub, -1 for a hub."""
    rank: Float64
    """(L,) the largest share / weight; kept by `grow`."""


class Tree(NamedTuple):
    """Heaps over the levels that have somebody waiting. Segment s of `members` is a heap of `size[s]` children."""

    members: Int32
    """(L + 1,) children, by parent; the hubs' own segment is the last."""
    first: Int32
    """(L + 2,) where each level's children begin; row L is the root."""
    size: Int32
    """(L + 1,) how many children still have something."""


@lean
def grow(levels: Levels, level: int, added: Int64, offered: Int64) -> None:
    """`added` int64 (T,) more is held at `level`; `offered` int64 (T,) is what there is in all."""
    largest = 0.0
    for column in range(levels.share.shape[1]):
        if added[column] > 0 and offered[column] > 0:
            levels.share[level, column] += float(added[column]) / float(offered[column])
        largest = max(largest, levels.share[level, column])
    levels.rank[level] = largest / levels.weight[level]


@lean
def before(levels: Levels, one: int, other: int) -> bool:
    """Whether `one` goes before its sibling `other`."""
    if levels.rank[one] != levels.rank[other]:
        return bool(levels.rank[one] < levels.rank[other])
    if levels.use[one] != levels.use[other]:
        return bool(levels.use[one] < levels.use[other])
    return bool(levels.name[one] < levels.name[other])


@lean
def sink(levels: Levels, tree: Tree, parent: int, at: int) -> None:
    """Move the child at place `at` of `parent`'s heap down to where it belongs."""
    begin, size = tree.first[parent], tree.size[parent]
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and before(levels, tree.members[begin + child + 1], tree.members[begin + child]):
            child += 1
        lower, upper = tree.members[begin + child], tree.members[begin + at]
        if not before(levels, lower, upper):
            return
        tree.members[begin + at], tree.members[begin + child] = lower, upper
        at = child


@lean
def drop_top(levels: Levels, tree: Tree, parent: int) -> None:
    """The first child of `parent` has nothing left."""
    begin = tree.first[parent]
    tree.size[parent] -= 1
    tree.members[begin] = tree.members[begin + tree.size[parent]]
    sink(levels, tree, parent, 0)


@lean
def plant(levels: Levels, tree: Tree, users: Int32) -> None:
    """Make the heaps of `users` int32, each once, and of the projects and hubs above them."""
    root = len(levels.parent)
    tree.size[:] = 0
    tree.first[:] = 0
    # count children: users of projects, then each project and hub once
    for user in users:
        level = int(user)
        while True:
            parent = int(levels.parent[level])
            home = root if parent < 0 else parent
            tree.size[home] += 1
            if parent < 0 or tree.size[parent] > 1:
                break
            level = parent
    for level in range(root + 1):
        tree.first[level + 1] = tree.first[level] + tree.size[level]
    tree.size[:] = 0
    for user in users:
        level = int(user)
        while True:
            parent = int(levels.parent[level])
            home = root if parent < 0 else parent
            tree.members[tree.first[home] + tree.size[home]] = level
            tree.size[home] += 1
            if parent < 0 or tree.size[parent] > 1:
                break
            level = parent
    for level in range(root + 1):
        for at in range(tree.size[level] // 2 - 1, -1, -1):
            sink(levels, tree, level, at)
