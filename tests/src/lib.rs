//! skylark-tests
