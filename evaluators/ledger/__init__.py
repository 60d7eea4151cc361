"""The tables of a run as Parquet parts, on a disk or an object store."""
