//! The lake: Delta tables of Parquet on S3 behind the domain's ports.
