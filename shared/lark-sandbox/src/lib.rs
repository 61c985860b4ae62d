//! lark-sandbox
