"""The commands, a module each: from a request to what is printed and returned."""
