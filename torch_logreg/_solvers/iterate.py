"""The one loop of all solvers that use the gradient over all rows: direction, search, record, leave."""

from __future__ import annotations

from torch_logreg._solvers.directions import Directions
from torch_logreg._solvers.search import State, backtrack, foresee
from torch_logreg._solvers.stopping import Rule


def iterate(directions: Directions, state: State, rule: Rule) -> State:
    """Update the parameters until the rule ends it; returns the last point, of the problems still there."""
    while not rule.finished:
        directions = directions.escalate(rule.done)
        direction = directions.direction(state)
        if directions.are_newton and rule.at_start:
            direction = state.at.stretch(direction)
        direction = rule.freeze(direction)
        if directions.looks_back or not rule.ends(state, direction):
            trial = backtrack(
                directions.objective, state, direction, directions.judge, directions.tries_lengths
            )
        else:
            trial = foresee(directions.objective, state, direction)
        rule.record(state, trial, directions.learn(state, trial, rule.done))
        directions, state = rule.leave(directions, trial.state)
    return state
