"""
Tests against real MongoDB servers.
"""
