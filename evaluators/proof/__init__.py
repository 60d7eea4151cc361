"""The two files of a program in a fresh process: write, run, verify, export."""
