"""Three built-in tasks whose items are generated."""
