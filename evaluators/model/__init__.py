"""A frozen base model and what is put on it: load, generate, train, code."""

import logging

# PEFT imports bitsandbytes where it is installed, which then tells of each kernel that it lacks.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
