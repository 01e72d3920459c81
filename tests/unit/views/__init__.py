"""Tests of the widgets without a kernel and without a browser."""
