//! local-template
