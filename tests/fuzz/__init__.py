"""Damaged and odd files of every kind that people give: each must be read, or refused in one sentence."""
