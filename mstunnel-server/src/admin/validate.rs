//! `mst-cli config validate`: which kind of file it is, and what is wrong with it.
//!
//! | file | read as |
//! | --- | --- |
//! | `*.toml` | `gateway.toml` with every file that it names |
//! | JSON with a `publicAddress` | a site |
//! | other JSON | a server configuration, or the Microsoft agent's `admin-settings.json` |

use std::path::Path;

use mstunnel_proto::config::{Configuration, MAX_FILE_LEN, Parsed, Problems, Site};

use crate::config::{Settings, files};
use crate::serve;

/// Checks one file: its warnings.
///
/// # Errors
/// Every problem, one a line.
pub fn check_file(path: &Path) -> Result<Vec<String>, String> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "toml" => {
            let (settings, mut warnings) = Settings::load(path).map_err(|error| error.to_string())?;
            warnings.extend(serve::check(&settings)?);
            Ok(warnings)
        }
        "json" => check_json(path),
        _ => Err(format!("{}: neither .toml nor .json; want gateway.toml or Graph JSON", path.display())),
    }
}

fn check_json(path: &Path) -> Result<Vec<String>, String> {
    let name = path.display().to_string();
    let text = files::read_text(path, MAX_FILE_LEN as u64).map_err(|error| format!("{name}: {error}"))?;
    if is_site(&text) {
        warnings(Site::parse(&text, &name))
    } else {
        warnings(Configuration::parse(&text, &name))
    }
}

fn warnings<T>(parsed: Result<Parsed<T>, Problems>) -> Result<Vec<String>, String> {
    match parsed {
        Ok(parsed) => Ok(parsed.warnings.iter().map(ToString::to_string).collect()),
        Err(problems) => Err(problems.to_string()),
    }
}

/// A Graph export is the object itself or a list of them under `value`. What is not JSON at all is left
/// to the parser of configurations to refuse.
fn is_site(text: &str) -> bool {
    let Ok(tree) = serde_json::from_str::<serde_json::Value>(text) else { return false };
    let object = tree.get("value").and_then(|list| list.get(0)).unwrap_or(&tree);
    object.get("publicAddress").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        check_file(&path)
    }

    #[test]
    fn a_site_and_a_configuration_are_told_apart() {
        let site = r#"{"id":"s","displayName":"Berlin","publicAddress":"vpn.example.com"}"#;
        assert_eq!(check("a.json", site), Ok(vec![]));
        let wrapped = format!("{{\"value\":[{site}]}}");
        assert_eq!(check("a.json", &wrapped), Ok(vec![]));
        let problems = check("a.json", "{\"listenPort\":\"x\"}").unwrap_err();
        assert!(problems.contains("/listenPort"), "{problems}");
    }

    #[test]
    fn every_kind_of_bad_file_is_a_refusal_with_its_name() {
        for (name, text) in [("a.json", "{"), ("gateway.toml", "listen = 1"), ("notes.txt", "")] {
            let problems = check(name, text).unwrap_err();
            assert!(problems.contains(name), "{problems}");
        }
        assert!(check_file(Path::new("/nonexistent/a.json")).unwrap_err().contains("/nonexistent/a.json"));
    }
}
