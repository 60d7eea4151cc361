"""Where a sweep is launched other than on this machine: batch systems and their profiles."""
