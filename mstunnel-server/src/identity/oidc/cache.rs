//! The last good keys, kept on disk for a start without the issuer.
//!
//! ```text
//! STATE/oidc-keys.json: {"openid_configuration_url":..., "issuer":..., "fetched": unix seconds, "key_set":{"keys":[...]}}
//! ```
//!
//! Kept keys are as good as fetched ones of the same age, so the file is only taken if nobody else
//! could have written it, if it was made for the same discovery document, and if its date is not in
//! the future. Whatever is wrong with it, it is as if it were not there.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hyper::Uri;
use serde_json::{Value, json};

use super::fetch::MAX_DOCUMENT_BYTES;
use super::json;
use super::jwks::KeySet;
use super::keyring::Known;
use crate::identity::secret_file;

/// The name of the file in the state directory.
pub(super) const FILE_NAME: &str = "oidc-keys.json";
/// Escaping may lengthen what came as one document.
const MAX_CACHE_BYTES: usize = 2 * MAX_DOCUMENT_BYTES;
/// How far a clock may have been set back since the file was written.
const MAX_CLOCK_STEP: Duration = Duration::from_secs(60);

/// Reads what was kept for this discovery document.
///
/// # Errors
/// A line that says why it cannot be used. A file that is not there is `Ok(None)`.
pub(super) fn load(path: &Path, url: &Uri, now: SystemTime) -> Result<Option<Known>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let (text, _) = secret_file::read(path, MAX_CACHE_BYTES).map_err(|error| error.to_string())?;
    let kept = json::parse_object(&text).map_err(|error| error.to_string())?;
    if kept.get("openid_configuration_url").and_then(Value::as_str) != Some(url.to_string().as_str()) {
        return Err("was made for another issuer".to_owned());
    }
    let seconds = kept.get("fetched").and_then(Value::as_u64);
    let fetched = seconds.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)));
    let fetched = fetched.filter(|at| *at <= now + MAX_CLOCK_STEP).ok_or("has no usable date")?;
    let issuer = kept.get("issuer").and_then(Value::as_str).ok_or("has no issuer")?.to_owned();
    let keys = kept.get("key_set").ok_or("has no keys")?.to_string();
    let keys = KeySet::parse(keys.as_bytes()).map_err(|error| error.to_string())?;
    Ok(Some(Known { issuer, keys, fetched }))
}

/// Keeps a key set, whole or not at all.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn store(
    path: &Path,
    url: &Uri,
    issuer: &str,
    key_set: &[u8],
    fetched: SystemTime,
) -> io::Result<()> {
    let key_set: Value = serde_json::from_slice(key_set)?;
    let fetched = fetched.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = json!({
        "openid_configuration_url": url.to_string(),
        "issuer": issuer,
        "fetched": fetched,
        "key_set": key_set,
    })
    .to_string();
    let new = path.with_extension("new");
    // What a killed run left behind may have any mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use jsonwebtoken::Algorithm;

    use super::*;
    use crate::identity::oidc::testing::SigningKey;

    fn url() -> Uri {
        "https://issuer.example/.well-known/openid-configuration".parse().unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn kept() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let keys = json!({ "keys": [SigningKey::p256("one").jwk()] }).to_string();
        store(&path, &url(), "https://issuer.example", keys.as_bytes(), at(1_000)).unwrap();
        (dir, path)
    }

    #[test]
    fn what_was_kept_comes_back_with_its_age() {
        let (_dir, path) = kept();
        let known = load(&path, &url(), at(5_000)).unwrap().unwrap();
        assert_eq!((known.issuer.as_str(), known.fetched), ("https://issuer.example", at(1_000)));
        assert!(known.keys.find(Some("one"), Algorithm::ES256).is_ok());
        store(&path, &url(), "https://issuer.example", b"{\"keys\":[]}", at(2_000)).unwrap();
        assert_eq!(load(&path, &url(), at(5_000)).unwrap().unwrap().keys.len(), 0);
        assert!(load(&path.with_file_name("none"), &url(), at(5_000)).unwrap().is_none());
    }

    /// Covers: R38, R86
    #[test]
    fn a_file_that_others_could_have_written_or_for_another_issuer_is_not_taken() {
        let (_dir, path) = kept();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(load(&path, &"https://other.example/".parse().unwrap(), at(5_000)).is_err());
        assert!(load(&path, &url(), at(900)).is_err(), "from the future");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(load(&path, &url(), at(5_000)).is_err());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_keys() {
        let (_dir, path) = kept();
        let whole = fs::read_to_string(&path).unwrap();
        for text in [
            "",
            "{}",
            &whole[..whole.len() / 2],
            &whole.replace("fetched", "fetchet"),
            &whole.replace("1000", "-1"),
            &whole.replace("1000", "99999999999999999999"),
            &whole.replace("key_set", "keys"),
        ] {
            fs::write(&path, text).unwrap();
            assert!(load(&path, &url(), at(5_000)).is_err(), "{text}");
        }
    }
}
