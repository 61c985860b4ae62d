//! Merges the fragments into one document.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::{Map, Value};

#[expect(clippy::disallowed_methods, reason = "Cargo tells a build where to write in variables")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=document.json");
    println!("cargo::rerun-if-changed=components.json");
    println!("cargo::rerun-if-changed=paths");

    let mut document = read(Path::new("document.json"))?;
    let mut components = read(Path::new("components.json"))?;
    let mut paths = Map::new();
    for file in fragments()? {
        let mut fragment = read(&file)?;
        if let Some(own) = fragment.remove("components") {
            merge(&mut components, own, &file)?;
        }
        merge(&mut paths, fragment.into(), &file)?;
    }
    document.insert("paths".to_owned(), paths.into());
    document.insert("components".to_owned(), components.into());
    if let Some(info) = document.get_mut("info").and_then(Value::as_object_mut) {
        info.insert("version".to_owned(), env::var("CARGO_PKG_VERSION")?.into());
    }
    let target = PathBuf::from(env::var("OUT_DIR")?).join("openapi.json");
    Ok(fs::write(target, serde_json::to_string(&document)?)?)
}

fn fragments() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files =
        fs::read_dir("paths")?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Map<String, Value>, Box<dyn Error>> {
    let read = fs::read_to_string(path).map_err(Into::into).and_then(|text| Ok(serde_json::from_str(&text)?));
    read.map_err(|error: Box<dyn Error>| format!("{}: {error}", path.display()).into())
}

/// Adds the sections (paths, kinds of components) of one fragment: what is in a section has one description.
fn merge(all: &mut Map<String, Value>, fragment: Value, file: &Path) -> Result<(), Box<dyn Error>> {
    let Value::Object(sections) = fragment else { return Err(format!("{}: no object", file.display()).into()) };
    for (section, entries) in sections {
        let Value::Object(entries) = entries else {
            return Err(format!("{}: `{section}` is no object", file.display()).into());
        };
        let known = all.entry(section.clone()).or_insert_with(|| Map::new().into());
        for (name, entry) in entries {
            let before = known.as_object_mut().and_then(|known| known.insert(name.clone(), entry));
            if before.is_some() {
                return Err(format!("{}: `{name}` of `{section}` is described twice", file.display()).into());
            }
        }
    }
    Ok(())
}
