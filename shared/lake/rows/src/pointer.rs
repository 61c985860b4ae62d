//! JSON pointers (RFC 6901), through objects.

use serde_json::value::RawValue;

use crate::object::{Fields, get, object};

/// The names on the way.
pub(crate) fn steps(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"))
}

/// What the pointer points at.
pub(crate) fn find<'a>(fields: &Fields<'a>, pointer: &str) -> Option<&'a RawValue> {
    let mut steps = steps(pointer);
    let first = get(fields, &steps.next()?)?;
    steps.try_fold(first, |value, step| get(&object(Some(value)), &step))
}
