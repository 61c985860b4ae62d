//! Lines of JSON -> columns -> Parquet: the tables' schemas, and how an event becomes a row of one of them or a quarantined line.
