"""
The main job and the benchmarks: scripts to run, and the load they share.
"""
