"""Comparisons of many small trainings on the toy world."""
