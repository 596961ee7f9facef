"""Benchmarks anyone can rerun: ``python -m benchmarks --help`` from the repository's root.

Every claim is a ratio of medians measured alternately in one process; absolute figures stand beside it. Importing this
package loads neither torch nor numpy, so that a child process measures only what it runs.
"""
