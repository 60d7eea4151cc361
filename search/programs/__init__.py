"""The two files of a program: recipe, script, payload and their codecs."""
