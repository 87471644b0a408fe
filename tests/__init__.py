"""
Tests, in the shape of the package: one module for each of its modules.
"""
