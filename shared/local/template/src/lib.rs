//! Reads template.yaml (AWS SAM) and says what to run on this machine. No network; no file but the template.
//!
//! Nothing is passed over in silence: what cannot be right is an error with its line, what AWS would do and a local run
//! does not is a [`Warning`], and resources that change nothing here are listed in [`Bundle::left_out`].

mod document;
mod fault;
mod identity;
mod model;
mod parameter;
mod place;
mod props;
mod read;
mod scope;
mod yaml;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

pub use fault::{TemplateError, Warning};
pub use model::*;
pub use place::Place;

/// Reads the template at `path` and resolves it for `place`.
pub fn load(path: &Path, place: &Place) -> Result<Bundle, TemplateError> {
    resolve(&read_file(path)?, &file_name(path), place)
}

/// The names of the parameters that the template at `path` declares: those that [`Place::parameters`] may hold.
pub fn parameters(path: &Path) -> Result<Vec<String>, TemplateError> {
    let text = read_file(path)?;
    let document = yaml::parse(&text).and_then(document::Document::read);
    let document = document.map_err(|fault| invalid(&file_name(path), fault))?;
    Ok(document.parameters.into_iter().map(|entry| entry.key).collect())
}

/// As [`load`], for a template that is already in memory; `file` is what errors call it.
pub fn resolve(text: &str, file: &str, place: &Place) -> Result<Bundle, TemplateError> {
    let bundle = || {
        let document = document::Document::read(yaml::parse(text)?)?;
        let (scope, outputs) = scope::Scope::new(document, place)?;
        read::bundle(scope, outputs)
    };
    bundle().map_err(|fault| invalid(file, fault))
}

fn read_file(path: &Path) -> Result<String, TemplateError> {
    fs::read_to_string(path).map_err(|source| TemplateError::Read { file: path.display().to_string(), source })
}

fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

fn invalid(file: &str, fault: fault::Fault) -> TemplateError {
    TemplateError::Invalid { file: file.to_owned(), line: fault.line, message: fault.message }
}
