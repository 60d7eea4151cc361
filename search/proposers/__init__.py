"""What is tried next: proposers that are asked for candidates and told what came of them."""
