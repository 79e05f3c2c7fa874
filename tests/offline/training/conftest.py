"""Trainings here share their graphs."""

from tests.exports import graphs_are_shared

__all__ = ["graphs_are_shared"]  # a fixture, by its import
