"""Pictures of results for print: matplotlib, as PNG or PDF."""
