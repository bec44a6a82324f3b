"""Which settings are worth their cost: those that nothing beats."""

import math
from collections.abc import Sequence


def pareto_front(costs: Sequence[float], distances: Sequence[float]) -> list[bool]:
    """For each point, whether no other is at least as good in cost and in distance and better in one of them.

    Less is better in both. Points that are equal in both stand or fall together. A point whose cost or distance is not
    finite is never on the front, and beats nothing.

    Args:
        costs: of the points, such as evaluations of the network an image.
        distances: of the same points.

    Raises:
        ValueError: there are not as many costs as distances.
    """
    points = list(zip(costs, distances, strict=True))
    finite = {point for point in points if all(map(math.isfinite, point))}
    front = set()
    best = math.inf
    for cost, distance in sorted(finite):
        if distance < best:
            front.add((cost, distance))
            best = distance
    return [point in front for point in points]
