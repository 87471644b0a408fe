"""
Tests of the replicator that need no server.
"""
