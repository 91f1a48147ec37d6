"""Weights in int8. Inputs are rounded to int8, row by row, and products are summed in integers.

May enter: a row of float32 numbers; panels of int8 weights with their scales. May leave: the float32 sums of gates.
"""
