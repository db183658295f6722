"""Answers for questions that mean the same: an embedder finds them, guards forbid, a calibration scores.

Nothing here is imported unless the semantic tier is on; it needs numpy, and an embedder (extra `semantic`).
"""
