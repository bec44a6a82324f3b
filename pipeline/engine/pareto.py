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
    order = sorted((point for point in points if all(map(math.isfinite, point))), reverse=True)
    front: set[tuple[float, float]] = set()
    best = math.inf
    while order:  # by rising cost, and at the same cost by rising distance
        cost, distance = order.pop()
        if distance < best or (cost, distance) in front:
            front.add((cost, distance))
            best = distance
    return [point in front for point in points]
