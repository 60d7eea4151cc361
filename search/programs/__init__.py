"""What a candidate weighs: the bytes of its payload, and how they are read back."""
