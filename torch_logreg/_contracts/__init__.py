"""Contracts: rows, objectives and solvers, as the other wings know each other."""
