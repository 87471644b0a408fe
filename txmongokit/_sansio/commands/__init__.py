"""
One class for each database command: what it sends and what its reply means.
"""
