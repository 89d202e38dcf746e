"""Loops over numbers for the CPU, compiled by Numba at their first call and kept on disk for the next process.

torch's own operations each read and write the whole tensor; these do in one pass what a layer needs around its matrix
product, or a whole layer. Every kernel has a slow twin in torch that tests compare it with. NaN and infinity pass
through as they do in torch, so that whoever looks for them finds them. docs/benchmarks.md has the measurements.
"""
