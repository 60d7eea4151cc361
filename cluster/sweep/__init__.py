"""The sweep file: all settings of a run together, and which workers they ask for."""
