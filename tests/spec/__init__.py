"""
The runner of the MongoDB drivers' official JSON tests: C{python -m tests.spec}.
"""
