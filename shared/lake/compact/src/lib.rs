//! Many small Parquet files -> few large ones: deduplicated, sorted, a column at a time, in bounded memory.
