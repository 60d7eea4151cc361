"""kilobit: the shortest program that makes a frozen language model reach a target score."""
