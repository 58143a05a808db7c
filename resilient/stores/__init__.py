"""Shared state: what several processes keep together, behind a local view that is kept fresh in the background.

pybreaker    a pybreaker storage, synchronised with a circuit in the background
"""
