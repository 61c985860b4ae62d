//! Python packages that judge what we do. Without a package registry they cannot come; CI says that they must.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set where the judges must come.
const REQUIRED: &str = "SKYLARK_JUDGES";

/// A Python that has these packages, installed into `folder` once; `None` if they cannot be installed here.
#[must_use]
pub fn python(requirements: &Path, folder: &Path) -> Option<PathBuf> {
    let listed = std::fs::read_to_string(requirements).unwrap();
    let name: String = listed.chars().filter(char::is_ascii_alphanumeric).collect();
    let venv = folder.join(format!("judges-{name}"));
    let (python, complete) = (venv.join("bin/python"), venv.join("complete"));
    let lock = std::fs::File::create(venv.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !complete.exists() {
        let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv).status();
        let pip = || {
            let mut command = Command::new(&python);
            command.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements).status()
        };
        if !made.is_ok_and(|status| status.success()) || !pip().is_ok_and(|status| status.success()) {
            assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set and they cannot be installed");
            return None;
        }
        std::fs::write(complete, "").unwrap();
    }
    Some(python)
}
