"""Whole models on the command line: ``run`` with a model instead of an LSTM, and tables in and out.

In: paths, options. Out: files of predictions; errors that say what does not fit.
"""
