//! What people may call a function: its folder, its logical id, or its name.

use std::collections::BTreeMap;

use local_template::Function;

/// The functions of a template by every name they go by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    pub(crate) fn new(functions: &[Function]) -> Self {
        let names = functions.iter().flat_map(|function| {
            [&function.package, &function.logical_id, &function.arn, &function.name]
                .map(|alias| (alias.clone(), function.name.clone()))
        });
        Self(names.collect())
    }

    /// The physical name.
    pub(crate) fn function(&self, alias: &str) -> Option<&str> {
        self.0.get(alias).map(String::as_str)
    }
}
