"""Axes -> runs -> stages, each trained once."""
