"""
The main job and the benchmarks: what they run, and the load they share.
"""
