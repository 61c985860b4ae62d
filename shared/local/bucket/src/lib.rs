//! local-bucket
