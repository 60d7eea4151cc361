"""The commands, a module each: from parsed arguments to what is printed and returned."""
