"""Who goes on after a rung: the rules that a sweep file can choose between."""
