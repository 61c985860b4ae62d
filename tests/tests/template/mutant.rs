//! Templates that break a rule.

use serde_json::Value;

/// The template with one thing wrong.
pub(crate) struct Mutant {
    /// What is wrong.
    pub(crate) what: &'static str,
    /// The logical id that the rule must name.
    pub(crate) culprit: &'static str,
    pub(crate) edits: &'static [Edit],
}

/// One change, at a JSON pointer.
pub(crate) enum Edit {
    /// Puts this JSON there; only the last step may be new.
    Set(&'static str, &'static str),
    Remove(&'static str),
}

impl Mutant {
    /// The mutated template. An edit that no longer fits the template fails the test.
    pub(crate) fn of(&self, template: &Value) -> Value {
        let mut mutated = template.clone();
        for edit in self.edits {
            match edit {
                Edit::Set(pointer, json) => {
                    let value: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
                    let (parent, key) = parent(&mut mutated, pointer);
                    match parent {
                        Value::Object(entries) => drop(entries.insert(key.to_owned(), value)),
                        Value::Array(items) => *items.get_mut(key.parse::<usize>().unwrap()).unwrap() = value,
                        _ => panic!("nothing can be set at {pointer}"),
                    }
                }
                Edit::Remove(pointer) => {
                    let (parent, key) = parent(&mut mutated, pointer);
                    let removed = parent.as_object_mut().and_then(|entries| entries.remove(key));
                    assert!(removed.is_some(), "nothing is at {pointer}");
                }
            }
        }
        assert_ne!(&mutated, template, "`{}` changes nothing", self.what);
        mutated
    }
}

fn parent<'v, 'p>(value: &'v mut Value, pointer: &'p str) -> (&'v mut Value, &'p str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    (value.pointer_mut(parent).unwrap_or_else(|| panic!("nothing is at {parent}")), key)
}
