"""Solvers: how an objective is minimised."""
