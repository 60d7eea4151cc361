"""Schedulers: the rules that promote or stop a candidate after a rung."""
